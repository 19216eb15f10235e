"""Who may talk to the server, as what, how often, and from where."""

import asyncio
import json
import re
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import StarletteDeprecationWarning
from starlette.routing import Route

from backflip.rundir import RunDir, RunError
from backflip.store import Role, Store, StoreError, new_uuid
from backflip.web.app import create_app
from backflip.web.limits import BURST, MOST_ADDRESSES, WRONG_TOKENS, Guesses, Pace
from backflip.web.roles import OpenRoute, guarded, needed
from backflip.web.security import HEADERS, MOST_BODY_BYTES, HostRefused, Hosts, fingerprint, run_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8642"
ROUTES: dict[str, tuple[str, Role | None]] = {
    "/": ("/", None),
    "/label": ("/label", "label"),
    "/run": ("/run", "view"),
    "/favicon.ico": ("/favicon.ico", None),
    "/static/{name:path}": ("/static/style.css", None),
    "/clips/{clip}": ("/clips/" + 64 * "0", None),
    "/geometries/{geometry}": ("/geometries/" + 64 * "0", None),
    "/sheets/{clip}": ("/sheets/" + 64 * "0", None),
    "/api/sheets/{clip}": ("/api/sheets/" + 64 * "0", None),
    "/api/sheets": ("/api/sheets", None),
    "/api/next": ("/api/next", "label"),
    "/api/practice": ("/api/practice", "label"),
    "/api/answer": ("/api/answer", "label"),
    "/api/skip": ("/api/skip", "label"),
    "/api/flag": ("/api/flag", "label"),
    "/api/undo": ("/api/undo", "label"),
    "/pick": ("/pick", "label"),
    "/api/four": ("/api/four", "label"),
    "/api/pick": ("/api/pick", "label"),
    "/api/unpick": ("/api/unpick", "label"),
    "/api/instruction": ("/api/instruction", None),
    "/api/run": ("/api/run", "view"),
    "/api/annotators": ("/api/annotators", "view"),
    "/api/clips": ("/api/clips", "view"),
    "/api/clips/{segment}": ("/api/clips/1", "view"),
    "/api/pairs": ("/api/pairs", "view"),
    "/api/reliability": ("/api/reliability", "view"),
    "/api/labels": ("/api/labels", "view"),
    "/api/events.jsonl": ("/api/events.jsonl", "view"),
    "/api/preferences.jsonl": ("/api/preferences.jsonl", "view"),
    "/api/invite": ("/api/invite", "admin"),
    "/api/revoke": ("/api/revoke", "admin"),
    "/api/instruct": ("/api/instruct", "admin"),
    "/api/gold": ("/api/gold", "admin"),
    "/api/exclude": ("/api/exclude", "admin"),
    "/api/relabel": ("/api/relabel", "admin"),
}
"""Every route there is, an address that it answers, and whom it answers (None: everybody with a token)."""
CHANGES = [
    f"/api/{name}"
    for name in (
        "answer",
        "skip",
        "flag",
        "undo",
        "sheets",
        "pick",
        "unpick",
        "invite",
        "revoke",
        "instruct",
        "gold",
        "exclude",
        "relabel",
    )
]
ADDRESSES = [address for address, _ in ROUTES.values()]
PATHS = [
    "../run.json",
    "..%2frun.json",
    "%2e%2e%2frun.json",
    "%252e%252e%252frun.json",
    "%2e%2e/run.db",
    "....//run.json",
    "..;/run.json",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "..%5crun.json",
    "..\\..\\run.json",
    "C:%5cwindows%5cwin.ini",
    "%c0%ae%c0%ae%2frun.json",
    "x%00.png",
    "0" * 63,
    "0" * 65,
    "0" * 64 + ".png",
    "0" * 64 + ".json",
    "0" * 64 + "%0a",
    "0" * 64 + "%00",
    "A" * 64,
    "run.db",
    "token",
    "vendor",
    "",
    "0" * 64,
]


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A served run, and visitors of it."""

    run: RunDir
    app: FastAPI
    clock: Clock

    @property
    def store(self) -> Store:
        found: Store = self.app.state.context.store
        return found

    @property
    def token(self) -> str:
        return run_token(self.run)

    @property
    def cookie(self) -> str:
        return f"backflip-{fingerprint(self.token)}"

    def visitor(self, token: str | None = None, address: str = "10.0.0.1") -> TestClient:
        client = TestClient(
            self.app, base_url=HERE, follow_redirects=False, raise_server_exceptions=False, client=(address, 5000)
        )
        if token is not None:
            client.cookies.set(self.cookie, token)
        return client

    def invited(self, role: Role, name: str | None = None) -> TestClient:
        return self.visitor(self.store.invite(name or f"a {role}", role))


def make_run(path: Path, **settings: Any) -> RunDir:
    return RunDir.create(path, {"seed": 1, "task": "hopper", "question": "Which?", "teacher": "people"} | settings)


def serve(path: Path, pace: Pace | None = None, **settings: Any) -> Site:
    run, clock = make_run(path, **settings), Clock()
    app = create_app(run, run_token(run), pace=pace or Pace(burst=10**9), guesses=Guesses(clock=clock))
    return Site(run, app, clock)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = serve(tmp_path / "run")
    yield site
    site.store.close()


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that change nothing but who was invited."""
    site = serve(tmp_path_factory.mktemp("shared") / "run")
    yield site
    site.store.close()


@pytest.fixture
def empty_app(shared_site: Site) -> FastAPI:
    shared_site.clock.now += 1000  # wrong tokens of other tests are forgotten
    return shared_site.app


@pytest.fixture
def outsider(empty_app: FastAPI, shared_site: Site) -> TestClient:
    return shared_site.visitor()


@pytest.fixture
def link_token(shared_site: Site) -> str:
    return shared_site.token


@pytest.fixture
def insider(outsider: TestClient, link_token: str) -> TestClient:
    outsider.get("/", params={"token": link_token})
    return outsider


def ask(client: TestClient, address: str) -> Any:
    return client.post(address, json={}) if address in CHANGES else client.get(address)


def protected(reply: Any) -> bool:
    """Whether a response carries what every response has to carry."""
    return (
        {name: reply.headers.get(name) for name in HEADERS} == HEADERS
        and not [name for name in reply.headers if name.startswith("access-control-")]
        and reply.headers["cache-control"] in ("no-store", "no-cache")
    )


# ---- tokens and roles


def test_every_route_is_known_to_these_tests(empty_app: FastAPI) -> None:
    assert all(isinstance(route, APIRoute) for route in empty_app.routes)
    assert {route.path for route in empty_app.routes if isinstance(route, APIRoute)} == set(ROUTES)


def test_every_route_says_what_these_tests_expect(empty_app: FastAPI) -> None:
    said = {route.path: {n.role for n in needed(route)} for route in empty_app.routes if isinstance(route, APIRoute)}
    assert said == {path: {role} for path, (_, role) in ROUTES.items()}


def test_routes_that_change_something_are_known_to_these_tests(empty_app: FastAPI) -> None:
    posts = [r.path for r in empty_app.routes if isinstance(r, APIRoute) and r.methods != {"GET"}]
    assert sorted(posts) == sorted(CHANGES)


def test_there_is_no_app_with_a_route_that_says_nothing() -> None:
    router = APIRouter()
    router.get("/open")(lambda: "for everybody")
    with pytest.raises(OpenRoute, match="'/open' does not say which role"):
        guarded(router.routes)
    with pytest.raises(OpenRoute):
        guarded([Route("/open", lambda _request: None)])


@pytest.mark.parametrize("path", list(ROUTES))
@pytest.mark.parametrize("role", get_args(Role))
def test_a_role_gets_what_is_its_own_and_nothing_else(shared_site: Site, path: str, role: Role) -> None:
    address, needed_role = ROUTES[path]
    reply = ask(shared_site.invited(role), address)
    if needed_role in (None, role) or role == "admin":
        assert reply.status_code in (200, 303, 404, 422), "let in, whatever it then says"
    else:
        assert reply.status_code == 403
        assert "Ask whoever invited you" in reply.text
    assert protected(reply)


def test_an_invitation_holds_at_once_and_so_does_its_end(site: Site) -> None:
    elsewhere = Store(site.run.path / "run.db")  # as `backflip invite` beside the server
    ana = site.visitor(elsewhere.invite("ana"))
    assert ana.get("/api/next").status_code == 200
    elsewhere.revoke("ana")
    for address in ADDRESSES:
        assert ask(ana, address).status_code == 401
    again = site.visitor(elsewhere.invite("ana", "view"))
    elsewhere.close()
    assert again.get("/api/run").status_code == 200
    assert ana.get("/api/next").status_code == 401


def test_answers_are_stored_under_the_name_that_was_invited(site: Site) -> None:
    ana = site.invited("label", "ana")
    assert ana.get("/api/next").json()["you"] == {"name": "ana", "role": "label", "given": 0, "quota": None}
    assert site.visitor(site.token).get("/api/next").json()["you"]["name"] == "you"


def test_the_first_page_is_that_of_ones_role(site: Site) -> None:
    found = {role: site.invited(role).get("/").headers["location"] for role in get_args(Role)}
    assert found == {"label": "/label", "view": "/run", "admin": "/label"}


def test_only_admins_are_told_where_the_run_lies(site: Site) -> None:
    told = {role: site.invited(role).get("/api/run").json()["path"] for role in ("view", "admin")}
    assert told == {"view": site.run.path.name, "admin": str(site.run.path)}


def test_annotators_are_told_nothing_that_could_sway_them(site: Site) -> None:
    site.run.tell("act", state="training", steps=1234567, total_steps=7654321, reward_version=31)
    site.run.tell("fit", state="fitting", version=31, comparisons=99)
    told = site.visitor(site.token).get("/api/next").json()
    named = {"run", "you", "settings", "instruction", "pairs", "counts", "now", "undrawn", "passed_over", "kind"}
    assert set(told) == named
    assert set(told["now"]) == {"act", "ask", "fit", "run", "time"}
    assert set(told["now"]["fit"]) == {"state", "comparisons", "time"}, "that r̂ learns from them, and not what"
    assert set(told["now"]["act"]) == {"state", "time"}
    assert set(told["settings"]) == {"task", "question", "labels"}
    assert not re.search("1234567|7654321|reward|version|step|predict", json.dumps(told))


def test_a_store_that_cannot_say_who_is_asking_is_503(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ana = site.invited("label", "ana")

    def locked(_token: str) -> None:
        raise StoreError("the database is locked") from sa.exc.OperationalError("", {}, Exception())

    monkeypatch.setattr(site.store, "admitted", locked)
    reply = ana.get("/api/next")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert protected(reply)
    assert site.visitor(site.token).get("/api/next").status_code == 200, "the run's own token is in no database"


@pytest.mark.parametrize("path", [*ADDRESSES, "/docs", "/openapi.json", "/nowhere", "/../run.json"])
@pytest.mark.parametrize("given", ["none", "wrong cookie", "wrong link", "another run's"])
def test_without_the_token_nobody_gets_in(outsider: TestClient, link_token: str, path: str, given: str) -> None:
    cookie = f"backflip-{fingerprint(link_token)}"
    if given == "wrong cookie":
        outsider.cookies.set(cookie, "x" * 43)
    if given == "another run's":
        outsider.cookies.set("backflip-000000000000", link_token)
    where = path + ("?token=" + "x" * 43 if given == "wrong link" else "")
    reply = outsider.post(where, json={}) if path in CHANGES else outsider.get(where)
    assert reply.status_code == 401
    assert "link that backflip printed" in reply.text
    assert "set-cookie" not in reply.headers


def test_the_link_gives_a_strict_cookie_and_a_clean_address(outsider: TestClient, link_token: str) -> None:
    reply = outsider.get("/label", params={"token": link_token, "big": "1"})
    assert (reply.status_code, reply.headers["location"]) == (303, "/label?big=1")
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert outsider.get("/label").status_code == 200


def test_the_link_cannot_lead_to_another_site(outsider: TestClient, link_token: str) -> None:
    for path in ("//evil.example/", "/%2F%2Fevil.example", "/\\evil.example"):
        location = outsider.get(f"{HERE}{path}?token={link_token}").headers["location"]
        assert re.match(r"^/[^/\\]", location)


def test_who_follows_a_link_from_another_site_is_sent_round_once(outsider: TestClient) -> None:
    reply = outsider.get("/label", headers={"sec-fetch-site": "cross-site"})
    assert reply.status_code == 401
    assert 'http-equiv="refresh"' in reply.text
    assert "refresh" not in outsider.get("/label", headers={"sec-fetch-site": "same-origin"}).text


def test_the_token_is_made_once_and_for_the_owner_only(site: Site) -> None:
    run = site.run
    token = run_token(run)
    assert run_token(RunDir.open(run.path)) == token
    assert (run.path / "token").stat().st_mode & 0o777 == 0o600
    (run.path / "token").write_text("guess me")
    with pytest.raises(RunError, match="damaged; delete it"):
        run_token(run)


@pytest.mark.parametrize("path", [*ADDRESSES, "/nowhere"])
@pytest.mark.parametrize("known", [True, False])
def test_every_response_carries_the_headers(outsider: TestClient, link_token: str, path: str, known: bool) -> None:
    if known:
        outsider.get("/", params={"token": link_token})
    for reply in (outsider.get(path), outsider.post(path, json={}), outsider.options(path), outsider.delete(path)):
        assert protected(reply)


def test_a_defect_of_ours_is_a_sentence_with_the_headers(site: Site) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    site.app.router.routes.append(Route("/broken", lambda _request: broken()))
    reply = site.visitor(site.token).get("/broken")
    assert reply.status_code == 500
    assert "ZeroDivisionError" not in reply.text
    assert protected(reply)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9", True),
        ("LOCALHOST:8642", True),
        ("[::1]:8642", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("127.0.0.1:80/x", False),
        ("[::1", False),
        ("192.168.0.7", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_answered(insider: TestClient, host: str, allowed: bool) -> None:
    assert insider.get("/label", headers={"host": host}).status_code == (200 if allowed else 400)


def raw(site: Site, method: str, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of a request whose headers no client would send."""
    status: list[int] = []
    heard: list[dict[str, Any]] = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return heard.pop() if heard else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    own = [(b"cookie", f"{site.cookie}={site.token}".encode()), (b"content-type", b"application/json")]
    path = "/api/skip" if method == "POST" else "/label"
    asyncio.run(site.app(scope_of(method, path, [*own, *headers]), receive, send))
    return status[0]


def scope_of(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """A request as the server hands it to the app."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "client": ("10.0.0.1", 1),
        "server": ("127.0.0.1", 8642),
        "headers": headers,
    }


@pytest.mark.parametrize(
    "named",
    [
        [],
        [b"127.0.0.1:8642", b"evil.example"],
        [b"evil.example", b"127.0.0.1:8642"],
        [b"127.0.0.1:8642/@evil.example"],
        [b"evil.example#@127.0.0.1"],
        [b"127.0.0.1 evil.example"],
        [b"127.0.0.1\r\nx: y"],
        [b"127.0.0.1\x00.evil.example"],
        [b"\xe2\x92\xbb.example"],
        [b"[::1]evil.example"],
        [b"127.0.0.1:123456"],
        [b"127.0.0.1:-1"],
        [b"127.0.0.1."],
        [b"0x7f.1"],
        [b"2130706433"],
    ],
)
def test_malformed_hosts_are_refused(shared_site: Site, named: list[bytes]) -> None:
    for method in ("GET", "POST"):
        assert raw(shared_site, method, [(b"host", name) for name in named]) == 400


def test_a_host_that_hides_a_path_reaches_no_other_route(shared_site: Site) -> None:
    assert raw(shared_site, "GET", [(b"host", b"127.0.0.1:8642")]) == 200
    assert raw(shared_site, "GET", [(b"host", b"127.0.0.1/static/style.css?")]) == 400


def test_names_of_a_proxy_are_answered_when_allowed() -> None:
    proxied = Hosts.bound_to("127.0.0.1", ["Label.Example.org", "192.0.2.7"])
    assert proxied.allow("label.example.org")
    assert proxied.allow("label.example.org:443")
    assert proxied.allow("192.0.2.7")
    assert proxied.allow("127.0.0.1:8642")
    assert not proxied.allow("evil.label.example.org")
    assert not proxied.allow("example.org")


@pytest.mark.parametrize("name", ["https://label.example.org", "label.example.org/x", "*.example.org", "a b", ""])
def test_names_that_cannot_be_a_host_are_refused(name: str) -> None:
    with pytest.raises(HostRefused, match=r"cannot be the name of a host.*--allowed-host"):
        Hosts.bound_to("127.0.0.1", [name])


def test_a_server_for_everybody_is_called_by_address_but_not_by_foreign_names() -> None:
    everybody = Hosts.bound_to("0.0.0.0")
    assert everybody.allow("192.168.0.7:8642")
    assert everybody.allow("[fe80::1]:8642")
    assert everybody.allow(socket.gethostname())
    assert not everybody.allow("evil.example")
    assert Hosts.bound_to("10.0.0.3").allow("10.0.0.3:1")
    assert not Hosts.bound_to("10.0.0.3").allow("10.0.0.4:1")


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"origin": HERE, "sec-fetch-site": "same-origin"}, 422),
    ],
)
def test_changes_come_from_our_page_as_json(
    insider: TestClient, path: str, headers: dict[str, str], status: int
) -> None:
    reply = insider.post(path, content=b"{}", headers={"content-type": "application/json"} | headers)
    assert reply.status_code == status


def test_a_change_is_never_made_by_get(insider: TestClient) -> None:
    assert {insider.get(path).status_code for path in CHANGES} == {405}


def test_other_methods_change_nothing(insider: TestClient) -> None:
    kind = {"content-type": "application/json"}
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "BREW"):
        for path in CHANGES:
            assert insider.request(method, path, content=b"{}", headers=kind).status_code == 405


def test_nothing_is_done_for_a_page_that_another_link_had_opened(insider: TestClient) -> None:
    for address in ADDRESSES:
        assert (address, insider.get(address, headers={"x-backflip-you": "you"}).status_code != 403) == (address, True)
        insider.headers["x-backflip-you"] = "%C3%A4nna"
        reply = ask(insider, address)
        assert (address, reply.status_code) == (address, 403)
        assert reply.text.startswith("Another link was opened in this browser meanwhile.")
        assert protected(reply)
        del insider.headers["x-backflip-you"]


def test_what_a_plain_form_can_send_is_refused(insider: TestClient) -> None:
    for path in CHANGES:
        assert insider.post(path, data={"uuid": new_uuid()}).status_code == 415
        assert insider.post(path, files={"uuid": b"x"}).status_code == 415
        assert insider.post(path, content=b"").status_code == 415


def test_large_bodies_are_refused(insider: TestClient) -> None:
    def drops() -> Iterator[bytes]:
        for _ in range(MOST_BODY_BYTES // 1024 + 1):
            yield b"x" * 1024

    kind = {"content-type": "application/json"}
    assert insider.post("/api/answer", content=b"x" * (MOST_BODY_BYTES + 1), headers=kind).status_code == 413
    assert insider.post("/api/answer", content=drops(), headers=kind).status_code == 413
    assert protected(insider.post("/api/invite", content=drops(), headers=kind))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("folder", ["clips", "static", "geometries", "sheets"])
def test_no_address_becomes_a_path(insider: TestClient, folder: str, name: str) -> None:
    assert insider.get(f"{HERE}/{folder}/{name}").status_code in (404, 405)


# ---- how often


def test_answers_beyond_five_a_second_are_put_off_and_none_is_lost(tmp_path: Path) -> None:
    clock = Clock()
    site = serve(tmp_path / "run", Pace(clock=clock))
    ana, ben = site.invited("label", "ana"), site.invited("label", "ben")
    given = {"uuid": new_uuid(), "showing": 1}
    refused = [ana.post("/api/skip", json=given).status_code for _ in range(BURST)]
    assert refused == BURST * [422], "let through to where it is seen that nobody was shown that"
    reply = ana.post("/api/skip", json=given)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert "send it again" in reply.text
    assert protected(reply)
    assert ben.post("/api/skip", json=given).status_code == 422, "others are not put off by it"
    assert ana.get("/api/next").status_code == 200, "nor is looking"
    clock.now += 0.2
    assert [ana.post("/api/skip", json=given).status_code for _ in range(2)] == [422, 429]
    site.store.close()


def test_pace_allows_a_burst_and_then_so_many_a_second() -> None:
    clock = Clock()
    pace = Pace(per_second=5, burst=10, clock=clock)
    assert [pace.wait("ana") for _ in range(10)] == 10 * [0.0]
    assert pace.wait("ana") == pytest.approx(0.2)  # none is left; one comes in 1/5 s
    clock.now += 0.1
    assert pace.wait("ana") == pytest.approx(0.1)  # half of one has come, and was not spent by asking
    clock.now += 100
    assert [pace.wait("ana") for _ in range(11)] == [
        *(10 * [0.0]),
        pytest.approx(0.2),
    ]  # no more than the burst gathers


def test_wrong_tokens_are_looked_at_ten_times_a_minute(site: Site) -> None:
    guesser = [site.visitor("x" * 42 + chr(ord("a") + i)) for i in range(WRONG_TOKENS + 1)]
    assert [client.get("/label").status_code for client in guesser] == [*(WRONG_TOKENS * [401]), 429]
    reply = guesser[-1].get("/api/next")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "60")
    assert protected(reply)
    assert site.visitor().get("/label?token=" + site.store.invite("eve")).status_code == 429, "not even a right one"
    assert site.visitor(site.token, address="10.0.0.2").get("/label").status_code == 200, "others are not shut out"
    assert site.visitor().get("/label").status_code == 401, "whoever brings no token guesses nothing"
    site.clock.now += 61
    assert guesser[-1].get("/label").status_code == 401


def test_who_is_known_is_not_shut_out_by_guesses_from_the_same_address(site: Site) -> None:
    ana = site.invited("label", "ana")
    assert ana.get("/api/next").status_code == 200
    for i in range(WRONG_TOKENS + 5):
        site.visitor().get(f"/label?token=wrong{i}")
    assert ana.get("/api/next").status_code == 200


def test_a_page_whose_token_was_revoked_asks_on_without_shutting_out_its_address(site: Site) -> None:
    ana = site.invited("label", "ana")
    ana.get("/label")
    site.store.revoke("ana")
    assert {ana.get("/api/next").status_code for _ in range(3 * WRONG_TOKENS)} == {401}
    assert site.invited("label", "ben").get("/label").status_code == 200


def test_guesses_are_counted_by_what_one_visitor_has_of_addresses_and_forgotten() -> None:
    guesses = Guesses(most=1, clock=Clock())
    guesses.wrong("2001:db8:0:1::1", "a")
    assert guesses.wait("2001:db8:0:1:ffff::2", "b") == 60
    assert guesses.wait("2001:db8:0:1:ffff::2", "a") == 0, "the same again is no guess"
    assert guesses.wait("2001:db8:0:2::1", "b") == 0
    guesses.wrong("no address", "b")
    assert guesses.wait("no address", "c") == 60
    for i in range(MOST_ADDRESSES):
        guesses.wrong(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", "a")
    assert guesses.wait("2001:db8:0:1::1", "b") == 0, "so many addresses later it is forgotten, and memory is bounded"


def test_a_class_that_opens_its_links_at_once_is_let_in(site: Site) -> None:
    async def looking(token: str) -> int:
        heard: list[int] = []
        own = [(b"host", b"127.0.0.1"), (b"cookie", f"{site.cookie}={token}".encode())]

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            heard.append(message.get("status", 0))

        await site.app(scope_of("GET", "/api/instruction", own), receive, send)
        return heard[0]

    async def all_at_once() -> list[int]:
        tokens = [site.store.invite(f"pupil {i}") for i in range(3 * WRONG_TOKENS)]
        return list(await asyncio.gather(*(looking(token) for token in tokens)))

    assert asyncio.run(all_at_once()) == 3 * WRONG_TOKENS * [200]
