"""What admins do through the page: inviting, instructing, and looking after answers."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.exceptions import StarletteDeprecationWarning

from backflip.accounts import LONGEST_INSTRUCTION
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.store import Store, new_uuid
from backflip.web.app import create_app
from backflip.web.limits import Pace
from backflip.web.security import fingerprint, run_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8642"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'; drop table annotator; --",
    "../../etc/passwd",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "%s%n",
    "Ana 🙃",
]
AskMany = Callable[..., list[int]]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {"seed": 1, "task": "hopper", "question": "Which?", "teacher": "people"})


@pytest.fixture
def app(run: RunDir) -> Iterator[FastAPI]:
    app = create_app(run, run_token(run), pace=Pace(burst=10**6))
    yield app
    app.state.context.store.close()


@pytest.fixture
def kept(app: FastAPI) -> Store:
    found: Store = app.state.context.store
    return found


@pytest.fixture
def admin(app: FastAPI, run: RunDir) -> TestClient:
    client = TestClient(app, base_url=HERE, follow_redirects=False)
    client.get("/", params={"token": run_token(run)})
    return client


def answered(store: Store, ask_many: AskMany, choice: Choice = Choice.LEFT, by: str = "ana") -> Preference:
    """An answer that stands."""
    given = Preference(new_uuid(), ask_many(store, 1)[0], choice, by)
    store.answer(given)
    return given


def standing(store: Store) -> list[tuple[int, Choice, str]]:
    return [(given.query, given.choice, given.teacher) for given, _ in store.preferences()]


def test_the_link_of_an_invitation_opens_the_page(admin: TestClient, app: FastAPI, run: RunDir) -> None:
    reply = admin.post("/api/invite", json={"name": "ana", "role": "label", "quota": 300}).json()
    assert (reply["name"], reply["role"]) == ("ana", "label")
    assert re.fullmatch(r"/label\?token=[\w-]{43}", reply["link"])
    ana = TestClient(app, base_url=HERE, follow_redirects=False)
    welcome = ana.get(reply["link"])
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/label")
    cookie = welcome.headers["set-cookie"].lower()
    assert f"backflip-{fingerprint(run_token(run))}=" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert ana.get("/api/next").json()["you"] == {"name": "ana", "role": "label", "given": 0, "quota": 300}
    assert admin.post("/api/revoke", json={"name": "ana"}).json()["saved"]
    assert ana.get("/api/next").status_code == 401


def test_links_of_other_roles_lead_to_the_run(admin: TestClient) -> None:
    for role in ("view", "admin"):
        assert admin.post("/api/invite", json={"name": role, "role": role}).json()["link"].startswith("/run?token=")


def test_everybody_who_was_invited_is_listed_without_a_token(admin: TestClient, kept: Store, ask_many: AskMany) -> None:
    link = admin.post("/api/invite", json={"name": "ana", "quota": 5}).json()["link"]
    admin.post("/api/invite", json={"name": "ben", "role": "view"})
    admin.post("/api/revoke", json={"name": "ben"})
    answered(kept, ask_many)
    reply = admin.get("/api/annotators")
    ana, ben = reply.json()["annotators"]
    assert (ana["name"], ana["summary"]["answers"]) == ("ana", 1)
    assert {name: ana["account"][name] for name in ("role", "quota", "revoked_at")} == {
        "role": "label",
        "quota": 5,
        "revoked_at": None,
    }
    assert ben["account"]["revoked_at"] >= ben["account"]["invited_at"]
    assert link.split("=")[1] not in reply.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_back_as_they_are(admin: TestClient, app: FastAPI, kept: Store, name: str) -> None:
    link = admin.post("/api/invite", json={"name": name}).json()["link"]
    visitor = TestClient(app, base_url=HERE)
    visitor.get(link)
    assert visitor.get("/api/next").json()["you"]["name"] == name
    reply = admin.get("/api/annotators")
    assert reply.json()["annotators"][0]["name"] == name
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert [account.name for account in kept.accounts()] == [name]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": ""}, 422),
        ({"name": "x" * 61}, 422),
        ({"name": "a\nb"}, 409),
        ({"name": "a\x00b"}, 409),
        ({"name": " ana"}, 409),
        ({"name": "you"}, 409),
        ({"name": "ana", "role": "root"}, 422),
        ({"name": "ana", "quota": 0}, 422),
        ({"name": "ana", "quota": 2**70}, 422),
        ({"name": "ana", "quota": "5"}, 422),
        ({"name": "ana", "token": "x" * 43}, 422),
        ({"name": ["ana"]}, 422),
        ([], 422),
        ({}, 422),
    ],
)
def test_invitations_that_cannot_be_are_refused(admin: TestClient, kept: Store, body: Any, status: int) -> None:
    reply = admin.post("/api/invite", json=body)
    assert reply.status_code == status
    assert reply.json()["detail"]
    assert kept.accounts() == []


def test_nobody_who_was_not_invited_is_shut_out(admin: TestClient) -> None:
    reply = admin.post("/api/revoke", json={"name": "eve"})
    assert (reply.status_code, reply.json()["detail"]) == (409, "nobody called 'eve' was invited")


@pytest.mark.parametrize("escaped", [False, True])
def test_an_instruction_may_have_all_its_characters_in_any_script(admin: TestClient, escaped: bool) -> None:
    kind = {"content-type": "application/json"}
    for letter in ("a", "ü", "字", "😀", '"'):
        body = json.dumps({"text": letter * LONGEST_INSTRUCTION}, ensure_ascii=escaped).encode()
        reply = admin.post("/api/instruct", content=body, headers=kind)
        assert (reply.status_code, reply.json().get("text")) == (200, letter * LONGEST_INSTRUCTION)


def test_annotators_read_the_newest_instruction(admin: TestClient, app: FastAPI) -> None:
    assert admin.get("/api/instruction").json() == {"id": None, "text": None, "since": None}
    text = "Choose the better backflip.\n<script>alert(1)</script>"
    written = admin.post("/api/instruct", json={"text": text}).json()
    assert (written["id"], written["text"]) == (1, text)
    assert admin.post("/api/instruct", json={"text": text}).json()["id"] == 1
    assert admin.post("/api/instruct", json={"text": "Choose the higher one."}).json()["id"] == 2
    ana = TestClient(app, base_url=HERE)
    ana.get(admin.post("/api/invite", json={"name": "ana"}).json()["link"])
    assert ana.get("/api/instruction").json()["text"] == "Choose the higher one."
    for nothing in ("", "x" * 8001):
        assert admin.post("/api/instruct", json={"text": nothing}).status_code == 422
    assert admin.post("/api/instruct", json={"text": "   "}).status_code == 409


def test_the_right_answer_to_a_query_can_be_said_and_taken_back(
    admin: TestClient, kept: Store, ask_many: AskMany
) -> None:
    (number,) = ask_many(kept, 1)
    assert admin.post("/api/gold", json={"query": number, "choice": "left", "why": "it falls"}).json()["saved"]
    assert kept.claim("ana") == [], "kept for measuring"
    assert admin.post("/api/gold", json={"query": number, "choice": None}).json()["saved"]
    assert len(kept.claim("ana")) == 1
    assert admin.post("/api/gold", json={"query": 99, "choice": "left"}).status_code == 409
    assert admin.post("/api/gold", json={"query": number, "choice": "best"}).status_code == 422
    assert admin.post("/api/gold", json={"query": number}).status_code == 422, "null has to be said"


def test_an_answer_can_be_taken_out_for_good(admin: TestClient, kept: Store, ask_many: AskMany) -> None:
    given = answered(kept, ask_many)
    body = {"uuid": new_uuid(), "excluded": given.uuid}
    assert admin.post("/api/exclude", json=body).json() == {"saved": True, "duplicate": False}
    assert standing(kept) == []
    assert admin.post("/api/exclude", json=body).json() == {"saved": True, "duplicate": True}
    assert admin.post("/api/exclude", json=body | {"uuid": new_uuid()}).status_code == 409


def test_an_answer_can_be_replaced_by_ones_own(admin: TestClient, kept: Store, ask_many: AskMany) -> None:
    given = answered(kept, ask_many, Choice.LEFT, by="ana")
    body = {"uuid": new_uuid(), "instead_of": given.uuid, "query": given.query, "choice": "right"}
    assert admin.post("/api/relabel", json=body).json() == {"saved": True, "duplicate": False}
    assert standing(kept) == [(given.query, Choice.RIGHT, "you")]
    assert admin.post("/api/relabel", json=body).json()["duplicate"] is True
    reply = admin.post("/api/relabel", json=body | {"uuid": new_uuid()})
    assert reply.status_code == 409
    assert "somebody may have changed it meanwhile" in reply.json()["detail"]
    assert admin.post("/api/relabel", json=body | {"choice": "left"}).status_code == 409, "the UUID is another answer's"


def test_checks_reach_annotators_once_several_are_invited(admin: TestClient, run: RunDir, kept: Store) -> None:
    asked: list[Any] = []
    claim = kept.claim

    def noted(*given: Any, **more: Any) -> Any:
        asked.append((more["checks"].repeats, more["checks"].gold))
        return claim(*given, **more)

    kept.claim = noted  # type: ignore[method-assign] # to see what the app asks of the store
    admin.get("/api/next")
    admin.post("/api/invite", json={"name": "ana"})
    admin.post("/api/invite", json={"name": "vera", "role": "view"})
    admin.get("/api/next")
    admin.post("/api/invite", json={"name": "ben"})
    admin.get("/api/next")
    admin.post("/api/revoke", json={"name": "ben"})
    admin.get("/api/next")
    assert asked == [(0, 0), (0, 0), (0.03, 0.01), (0, 0)]


def test_shares_that_a_run_was_given_are_used(tmp_path: Path) -> None:
    settings = {"seed": 1, "teacher": "people", "people": {"repeats": 0.5, "gold": None, "of_a_newer_version": 1}}
    run = RunDir.create(tmp_path / "run", settings)
    app = create_app(run, run_token(run))
    checks = app.state.context.people.checks(several=True)
    app.state.context.store.close()
    assert (checks.repeats, checks.gold) == (0.5, 0.01)
