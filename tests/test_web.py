"""The server's side of the pages: who gets in, what is stored, what a hostile visitor gets."""

import errno
import hashlib
import json
import logging
import re
import socket
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from PIL import Image
from starlette.exceptions import StarletteDeprecationWarning

from backflip.preferences import Choice
from backflip.rundir import RunDir, RunError
from backflip.segments import Segments
from backflip.store import Claim, Store, new_uuid
from backflip.web.app import STATIC, create_app
from backflip.web.security import HostRefused, run_token
from backflip.web.server import FIRST_PORT, PortBusy, bind, link

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8642"


def make_run(path: Path, **settings: Any) -> RunDir:
    return RunDir.create(path, {"seed": 1, "task": "hopper", "question": "Which?", "teacher": "people"} | settings)


def add_pairs(run: RunDir, store: Store, count: int) -> list[int]:
    """Queries with clips, in the order in which they will be shown."""
    n = 2 * count
    segments = Segments(
        ids=np.full(n, -1, np.int64),
        observations=np.zeros((n, 4, 2), np.float32),
        actions=np.zeros((n, 4, 1), np.float32),
        true_rewards=np.zeros((n, 4), np.float32),
        states=np.zeros((n, 4, 0), np.float32),
        policy_steps=np.zeros(n, np.int64),
        lengths=np.full(n, 4, np.int64),
    )
    ids = store.add(segments)
    asked = store.ask(ids.reshape(count, 2), np.full((3, count), 0.75, np.float32), policy_steps=500)
    for number in ids.tolist():
        store.set_clip(number, draw_clip(run, number))
    store.mark_drawn()
    return [query.id for query in asked]


def draw_clip(run: RunDir, number: int) -> str:
    name = hashlib.sha256(str(number).encode()).hexdigest()
    Image.new("RGB", (16, 8)).save(run.clips / f"{name}.png")
    meta = {"frame_width": 8, "frame_height": 8, "columns": 2, "frames": 2, "fps": 10, "mime": "image/png"}
    (run.clips / f"{name}.json").write_text(json.dumps(meta | {"drawn_by": "a test"}))
    return name


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "run")


@pytest.fixture
def app(run: RunDir) -> Iterator[FastAPI]:
    app = create_app(run, run_token(run))
    yield app
    app.state.context.store.close()


@pytest.fixture
def store(app: FastAPI) -> Store:
    found: Store = app.state.context.store
    return found


@pytest.fixture
def stranger(app: FastAPI) -> TestClient:
    return TestClient(app, base_url=HERE, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def visitor(app: FastAPI, run: RunDir, stranger: TestClient) -> TestClient:
    assert stranger.get("/", params={"token": run_token(run)}).status_code == 303
    return stranger


@pytest.fixture(scope="module")
def empty_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """An app for the tests that change nothing."""
    run = make_run(tmp_path_factory.mktemp("empty") / "run")
    app = create_app(run, run_token(run))
    yield app
    app.state.context.store.close()


@pytest.fixture
def outsider(empty_app: FastAPI) -> TestClient:
    return TestClient(empty_app, base_url=HERE, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def link_token(empty_app: FastAPI) -> str:
    return run_token(empty_app.state.context.run)


@pytest.fixture
def insider(outsider: TestClient, link_token: str) -> TestClient:
    outsider.get("/", params={"token": link_token})
    return outsider


def shown(store: Store, count: int = 1) -> list[Claim]:
    """What the visitor holds, as the store knows it: the page hears neither the query nor whether it is flipped."""
    return store.claim("you", count)


def answer_of(claim: Claim, choice: str = "left", **more: Any) -> dict[str, Any]:
    """An answer that means `choice`, said as a visitor sees the sides."""
    mirrored = {"left": "right", "right": "left"}
    seen = mirrored.get(choice, choice) if claim.flipped else choice
    return {"uuid": new_uuid(), "showing": claim.showing, "choice": seen, **more}


def queries_of(store: Store, reply: dict[str, Any]) -> list[int]:
    """The queries that a reply has pairs for."""
    return [store.shown(pair["showing"], "you").query for pair in reply["pairs"]]


def standing(store: Store) -> list[tuple[int, str]]:
    return [(preference.query, preference.choice.value) for preference, _ in store.preferences()]


# ---- picking the best of four


def test_nobody_picks_where_people_choose_between_two(visitor: TestClient, run: RunDir, store: Store) -> None:
    add_pairs(run, store, 2)
    body = {"uuid": new_uuid(), "segments": [1, 2, 3, 4], "best": 1}
    replies = [visitor.post("/api/pick", json=body), visitor.post("/api/unpick", json=body), visitor.get("/api/four")]
    assert [reply.status_code for reply in replies] == [404, 404, 404]
    assert "choose between two" in replies[0].text
    assert standing(store) == []
    assert visitor.get("/pick").headers["location"] == "/label"


# ---- clips


def test_clips_are_only_those_of_the_store(visitor: TestClient, run: RunDir, store: Store) -> None:
    add_pairs(run, store, 1)
    url = visitor.get("/api/next").json()["pairs"][0]["left"]["url"]
    reply = visitor.get(url)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    assert "immutable" in reply.headers["cache-control"]
    stored = run.path / url[1:]
    stray = run.clips / ("f" * 64 + ".png")
    stray.write_bytes(stored.with_suffix(".png").read_bytes())
    assert visitor.get("/clips/" + "f" * 64).status_code == 404
    stored.with_suffix(".png").unlink()
    stored.with_suffix(".png").symlink_to(run.path / "run.json")
    assert visitor.get(url).status_code == 404


# ---- pairs and answers


def test_pairs_come_with_their_sheets_and_are_not_given_twice(visitor: TestClient, run: RunDir, store: Store) -> None:
    numbers = add_pairs(run, store, 5)
    first = visitor.get("/api/next", params={"count": 3}).json()
    assert queries_of(store, first) == numbers[:3]
    sheet = first["pairs"][0]["left"]
    assert re.match(r"^/clips/[0-9a-f]{64}$", sheet.pop("url"))
    assert sheet == {
        "frame_width": 8,
        "frame_height": 8,
        "columns": 2,
        "frames": 2,
        "fps": 10.0,
        "mime": "image/png",
    }
    assert first["counts"]["open"] == 5
    assert first["settings"]["question"] == "Which?"
    have = ",".join(str(pair["showing"]) for pair in first["pairs"])
    more = visitor.get("/api/next", params={"count": 3, "have": have}).json()
    assert queries_of(store, more) == numbers[3:]


def test_no_hint_of_what_the_model_thinks_reaches_the_labelling_page(
    visitor: TestClient, run: RunDir, store: Store
) -> None:
    add_pairs(run, store, 2)
    text = visitor.get("/api/next").text
    assert not re.search("p_left|predict|disagree|true_reward|return", text)


def test_pairs_that_the_page_still_holds_stay_its_own(tmp_path: Path) -> None:
    run, now = make_run(tmp_path / "run"), [0.0]
    app = create_app(run, run_token(run))
    store = app.state.context.store
    store.clock = lambda: now[0]
    client = TestClient(app, base_url=HERE)
    client.get("/", params={"token": run_token(run)})
    add_pairs(run, store, 3)
    held = [pair["showing"] for pair in client.get("/api/next", params={"count": 3}).json()["pairs"]]
    for _ in range(5):
        now[0] += 60
        client.get("/api/next", params={"count": 0, "have": ",".join(map(str, held))})
    assert store.claim("somebody else", 3) == []
    now[0] += 600
    assert len(store.claim("somebody else", 3)) == 3
    store.close()


@pytest.mark.parametrize("missing", ["sheet", "description", "everything"])
def test_a_pair_whose_clip_is_missing_waits_until_it_is_drawn_again(
    visitor: TestClient, run: RunDir, store: Store, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = add_pairs(run, store, 4)
    clip = shown(store)[0].right_clip
    for file in run.clips.iterdir():
        if missing == "everything" or file.name == f"{clip}.{'png' if missing == 'sheet' else 'json'}":
            file.unlink()
    with caplog.at_level(logging.WARNING):
        reply = visitor.get("/api/next", params={"count": 3}).json()
    assert queries_of(store, reply) == ([] if missing == "everything" else numbers[1:])
    assert f"query {numbers[0]} waits until its clips are drawn again" in caplog.text
    counts = store.counts()
    assert (counts.open, counts.flagged) == (4, 0)
    assert len(store.undrawn(8)) == (8 if missing == "everything" else 2)


def test_a_disk_that_cannot_be_read_for_a_moment_costs_no_pair(
    visitor: TestClient, run: RunDir, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = add_pairs(run, store, 3)

    def unreadable(clips: Path, clip: str) -> None:
        raise OSError(errno.EIO, "Input/output error", str(clips / clip))

    with monkeypatch.context() as patch:
        patch.setattr("backflip.web.app.described", unreadable)
        reply = visitor.get("/api/next", params={"count": 3})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert queries_of(store, visitor.get("/api/next", params={"count": 3}).json()) == numbers


def test_one_clip_that_cannot_be_read_keeps_nobody_from_the_other_pairs(
    visitor: TestClient, run: RunDir, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = add_pairs(run, store, 4)
    description = run.clips / f"{shown(store)[0].right_clip}.json"
    whole = description.read_bytes()
    description.unlink()
    description.mkdir()
    reply = visitor.get("/api/next", params={"count": 3})
    assert (queries_of(store, reply.json()), reply.json()["passed_over"]) == (numbers[1:], 1)
    assert f"the clips of query {numbers[0]} cannot be read" in caplog.text
    assert store.counts().flagged == 0
    description.rmdir()
    description.write_bytes(whole)
    assert numbers[0] in queries_of(store, visitor.get("/api/next", params={"count": 4}).json())


@pytest.mark.parametrize("damage", ["half a description", "no frames"])
def test_a_pair_whose_clip_is_damaged_is_passed_over_for_good(
    visitor: TestClient, run: RunDir, store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = add_pairs(run, store, 4)
    clip = shown(store)[0].right_clip
    if damage == "half a description":
        (run.clips / f"{clip}.json").write_text('{"frame_width": 8')
    else:
        meta = json.loads((run.clips / f"{clip}.json").read_text())
        (run.clips / f"{clip}.json").write_text(json.dumps(meta | {"frames": 0}))
    with caplog.at_level(logging.WARNING):
        reply = visitor.get("/api/next", params={"count": 3}).json()
    assert queries_of(store, reply) == numbers[1:]
    assert reply["passed_over"] == 1
    assert f"query {numbers[0]} is passed over" in caplog.text
    assert visitor.get("/api/next").json()["passed_over"] == 0


def test_an_answer_is_stored_once_however_often_it_is_sent(visitor: TestClient, run: RunDir, store: Store) -> None:
    number = add_pairs(run, store, 1)[0]
    given = answer_of(shown(store)[0], "right", seconds=2.5, loops=1.2, swap_ms=14.0, prefetched=True)
    replies = [visitor.post("/api/answer", json=given).json() for _ in range(3)]
    assert [(reply["saved"], reply["duplicate"]) for reply in replies] == [(True, False), (True, True), (True, True)]
    assert standing(store) == [(number, "right")]
    assert replies[-1]["counts"]["labels"] == 1
    connection = sqlite3.connect(run.path / "run.db")
    (details, seconds, teacher) = connection.execute("select details, seconds, teacher from event").fetchone()
    connection.close()
    assert json.loads(details) == {"loops": 1.2, "swap_ms": 14.0, "prefetched": True}
    assert (seconds, teacher) == (2.5, "you")


def test_every_choice_can_be_given(visitor: TestClient, run: RunDir, store: Store) -> None:
    numbers = add_pairs(run, store, 4)
    for claim, choice in zip(shown(store, 4), Choice, strict=True):
        assert visitor.post("/api/answer", json=answer_of(claim, choice.value)).status_code == 200
    assert standing(store) == list(zip(numbers, [choice.value for choice in Choice], strict=True))


def test_a_uuid_cannot_be_used_for_another_answer(visitor: TestClient, run: RunDir, store: Store) -> None:
    number = add_pairs(run, store, 1)[0]
    claim = shown(store)[0]
    given = answer_of(claim, "left")
    visitor.post("/api/answer", json=given)
    reply = visitor.post("/api/answer", json=given | {"choice": answer_of(claim, "right")["choice"]})
    assert reply.status_code == 409
    assert "cannot be rewritten" in reply.json()["detail"]
    assert visitor.post("/api/skip", json={"uuid": given["uuid"], "showing": claim.showing}).status_code == 409
    assert standing(store) == [(number, "left")]


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "best"},
        {"choice": "LEFT"},
        {"showing": 0},
        {"showing": -1},
        {"showing": 2**63},
        {"showing": "1"},
        {"showing": True},
        {"showing": 99},
        {"uuid": "1"},
        {"uuid": "'; drop table event; --"},
        {"uuid": None},
        {"seconds": "fast"},
        {"annotator": "somebody else"},
    ],
)
def test_bad_input_is_refused_with_422(visitor: TestClient, run: RunDir, store: Store, change: dict[str, Any]) -> None:
    add_pairs(run, store, 1)
    assert visitor.post("/api/answer", json=answer_of(shown(store)[0]) | change).status_code == 422
    assert store.counts().labels == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"seconds": NaN}', b"\xff\xfe", b'"' + b"[" * 9000])
def test_bodies_that_are_no_answer_are_refused_with_422(insider: TestClient, body: bytes) -> None:
    reply = insider.post("/api/answer", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422)


@pytest.mark.parametrize(
    "query", ["count=-1", "count=11", "count=x", "have=x", "have=1,,2", "have=" + "9" * 19, "have=1;drop"]
)
def test_bad_addresses_are_refused_with_422(insider: TestClient, query: str) -> None:
    assert insider.get(f"/api/next?{query}").status_code == 422


def test_a_skipped_query_goes_to_others_and_is_no_label(visitor: TestClient, run: RunDir, store: Store) -> None:
    numbers = add_pairs(run, store, 2)
    given = {"uuid": new_uuid(), "showing": shown(store, 2)[0].showing}
    assert visitor.post("/api/skip", json=given).json()["duplicate"] is False
    assert visitor.post("/api/skip", json=given).json()["duplicate"] is True
    assert queries_of(store, visitor.get("/api/next").json()) == numbers[1:]
    assert [claim.query.id for claim in store.claim("somebody else")] == numbers[:1]
    assert store.counts().labels == 0


def test_a_flagged_query_is_shown_to_nobody(
    visitor: TestClient, run: RunDir, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = add_pairs(run, store, 2)
    given = {"uuid": new_uuid(), "showing": shown(store, 2)[0].showing, "reason": "<img onerror=x>\nForged line"}
    with caplog.at_level(logging.WARNING):
        assert visitor.post("/api/flag", json=given).json()["duplicate"] is False
        assert visitor.post("/api/flag", json=given).json()["duplicate"] is True
    assert len(caplog.records) == 1
    assert "\nForged" not in caplog.records[0].getMessage()
    assert queries_of(store, visitor.get("/api/next").json()) == numbers[1:]
    assert store.claim("somebody else") == []
    assert store.counts().labels == 0


def test_an_undone_answer_is_asked_again(visitor: TestClient, run: RunDir, store: Store) -> None:
    numbers = add_pairs(run, store, 2)
    claim = shown(store)[0]
    given = answer_of(claim)
    visitor.post("/api/answer", json=given)
    undo = {"uuid": new_uuid(), "undone": given["uuid"]}
    reply = visitor.post("/api/undo", json=undo).json()
    assert (reply["showing"], reply["counts"]["labels"]) == (claim.showing, 0)
    assert visitor.post("/api/undo", json=undo).json()["showing"] is None
    assert numbers[0] in queries_of(store, visitor.get("/api/next").json())
    visitor.post("/api/answer", json=answer_of(claim, "right"))
    assert standing(store) == [(numbers[0], "right")]


def test_only_ones_own_answers_can_be_undone(visitor: TestClient) -> None:
    reply = visitor.post("/api/undo", json={"uuid": new_uuid(), "undone": new_uuid()})
    assert reply.status_code == 409
    assert "no answer" in reply.json()["detail"]


def test_a_locked_store_is_503_and_the_answer_can_be_sent_again(visitor: TestClient, run: RunDir, store: Store) -> None:
    add_pairs(run, store, 1)
    given = answer_of(shown(store)[0])
    store.engine.dispose()

    def hasty(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout=20").close()

    sa.event.listen(store.engine, "connect", hasty)
    other = sqlite3.connect(run.path / "run.db", isolation_level=None)
    other.execute("begin immediate")
    reply = visitor.post("/api/answer", json=given)
    other.execute("rollback")
    other.close()
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert visitor.post("/api/answer", json=given).json() | {"counts": 0} == {
        "saved": True,
        "duplicate": False,
        "counts": 0,
    }


# ---- the run


def test_a_run_that_has_nothing_yet_is_shown_as_such(visitor: TestClient) -> None:
    report = visitor.get("/api/run").json()
    assert report["series"] == {}
    assert report["position"] == 0
    assert report["given"] == []
    assert report["counts"]["labels"] == 0
    assert report["now"]["act"]["steps"] is None
    first = visitor.get("/api/next").json()
    assert first["pairs"] == []
    assert first["undrawn"] == 0


def test_the_first_page_is_the_one_the_teacher_needs(tmp_path: Path) -> None:
    for teacher, page in (("people", "/label"), ("oracle", "/run")):
        run = make_run(tmp_path / teacher, teacher=teacher)
        app = create_app(run, run_token(run))
        client = TestClient(app, base_url=HERE, follow_redirects=True)
        assert client.get("/", params={"token": run_token(run)}).url.path == page
        app.state.context.store.close()


def test_measurements_come_once_each(visitor: TestClient, run: RunDir) -> None:
    run.record(10, {"fit/train_loss": 0.5, "act/steps_per_second": 100.0})
    first = visitor.get("/api/run").json()
    assert first["series"]["fit/train_loss"]["step"] == [10]
    assert first["series"]["fit/train_loss"]["value"] == [0.5]
    run.record(20, {"fit/train_loss": float("nan")})
    second = visitor.get("/api/run", params={"since": first["position"]}).json()
    assert second["series"] == {"fit/train_loss": {**second["series"]["fit/train_loss"], "step": [20], "value": [None]}}
    third = visitor.get("/api/run", params={"since": second["position"]}).json()
    assert (third["series"], third["reset"]) == ({}, False)


def test_a_run_that_went_back_to_a_checkpoint_is_told_anew(visitor: TestClient, run: RunDir) -> None:
    run.record(10, {"fit/train_loss": 0.5})
    kept = run.metrics_position()
    run.record(20, {"fit/train_loss": 0.4})
    position = visitor.get("/api/run").json()["position"]
    run.forget_metrics(kept)
    report = visitor.get("/api/run", params={"since": position}).json()
    assert report["reset"]
    assert report["series"]["fit/train_loss"]["step"] == [10]
    assert report["position"] == kept


def test_a_run_that_went_back_and_on_past_where_it_was_is_told_anew(visitor: TestClient, run: RunDir) -> None:
    run.record(10, {"fit/train_loss": 0.5})
    kept = run.metrics_position()
    run.record(20, {"fit/train_loss": 0.4})
    heard = visitor.get("/api/run").json()
    run.forget_metrics(kept)
    for step in (15, 20, 25):
        run.record(step, {"fit/train_loss": 0.3})
    report = visitor.get("/api/run", params={"since": heard["position"], "mark": heard["mark"]}).json()
    assert report["reset"]
    assert report["series"]["fit/train_loss"]["step"] == [10, 15, 20, 25]


def test_a_run_of_days_is_told_in_points_that_a_page_can_draw(visitor: TestClient, run: RunDir) -> None:
    lines = [f'{{"step": {i}, "seconds": {i}.0, "name": "act/reward", "value": 1.5}}' for i in range(20_000)]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    first = visitor.get("/api/run").json()
    steps = first["series"]["act/reward"]["step"]
    assert 1_000 <= len(steps) <= 2_001
    assert steps[-1] == 19_999
    run.record(20_000, {"act/reward": 2.0})
    then = visitor.get("/api/run", params={"since": first["position"], "mark": first["mark"]}).json()
    assert (then["reset"], then["series"]["act/reward"]["step"]) == (False, [20_000])


def test_the_report_tells_what_every_part_said_and_the_newest_answers(
    visitor: TestClient, run: RunDir, store: Store
) -> None:
    run.tell("act", state="training", steps=1000, total_steps=5000, steps_per_second=9.5, reward_version=3)
    run.tell("ask", open=2, due=7, a_new_key="unknown to this page")
    run.tell("fit", version=4, comparisons=12)
    run.tell("run", state="failed", message="<script>alert(1)</script>")
    numbers = add_pairs(run, store, 10)
    for claim in shown(store, 10):
        visitor.post("/api/answer", json=answer_of(claim, seconds=1.5))
    report = visitor.get("/api/run").json()
    assert report["now"]["act"]["steps"] == 1000
    assert report["now"]["ask"]["due"] == 7
    assert report["now"]["fit"]["version"] == 4
    assert report["now"]["run"]["message"] == "<script>alert(1)</script>"
    assert report["now"]["time"] >= report["now"]["act"]["time"]
    assert [given["query"] for given in report["given"]] == numbers[:1:-1]
    assert report["given"][0] | {"query": 0} == {
        "query": 0,
        "choice": "left",
        "teacher": "you",
        "seconds": 1.5,
        "predicted_left": 0.75,
        "policy_steps": 500,
    }


@pytest.mark.parametrize("hostile", ["<img src=x onerror=alert(1)>", "'; drop table event; --", "\u202e\x00\ud7ff🙃"])
def test_hostile_strings_pass_through_unharmed(tmp_path: Path, hostile: str) -> None:
    run = make_run(tmp_path / "run", task=hostile, question=hostile)
    app = create_app(run, run_token(run), annotator=hostile.replace("\x00", ""))
    client = TestClient(app, base_url=HERE)
    client.get("/", params={"token": run_token(run)})
    add_pairs(run, app.state.context.store, 1)
    claim = app.state.context.store.claim(hostile.replace("\x00", ""))[0]
    assert client.post("/api/answer", json=answer_of(claim)).status_code == 200
    report = client.get("/api/run").json()
    app.state.context.store.close()
    assert report["settings"]["task"] == hostile
    assert report["given"][0]["teacher"] == hostile.replace("\x00", "")


def test_damaged_settings_are_said_at_the_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", task=["not", "a", "name"])
    with pytest.raises(RunError, match=r"run\.json are damaged"):
        create_app(run, run_token(run))


# ---- serving


def test_a_chosen_port_that_is_taken_is_not_exchanged_for_another() -> None:
    with bind(port=None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=f"port {port} of 127.0.0.1 is taken.*--port"):
            bind(port=port)
        with bind(port=0) as other:
            assert other.getsockname()[1] > port >= FIRST_PORT


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8"])
def test_other_machines_are_let_in_only_on_request(host: str) -> None:
    with pytest.raises(HostRefused, match=r"--allow-remote.*ssh -L"):
        bind(host)


def test_a_server_for_everybody_can_be_had() -> None:
    with bind("0.0.0.0", allow_remote=True) as listening:
        assert socket.gethostname() in link(listening, "T")


@pytest.mark.parametrize("port", [70000, -1])
def test_impossible_ports_are_refused_with_a_sentence(port: int) -> None:
    with pytest.raises(PortBusy, match="cannot be used"):
        bind(port=port)


def test_unknown_hosts_are_refused_with_a_sentence() -> None:
    with pytest.raises(HostRefused, match=r"not an address of this machine.*use 127\.0\.0\.1"):
        bind("no.such.host.invalid")


def test_answers_are_not_held_back_by_the_network() -> None:
    with bind() as listening, socket.create_connection(listening.getsockname()), listening.accept()[0] as connection:
        assert connection.proto == socket.IPPROTO_TCP  # asyncio turns Nagle's waiting off for these only


def test_the_link_names_the_port_and_the_token() -> None:
    with bind() as listening:
        assert link(listening, "T") == f"http://127.0.0.1:{listening.getsockname()[1]}/?token=T"
    with bind("::1") as listening:
        assert link(listening, "T").startswith("http://[::1]:")


def test_a_server_runs_until_told_to_stop_and_logs_no_token(run: RunDir) -> None:
    script = (
        "import logging, sys, time\nfrom pathlib import Path\nfrom backflip.web.server import bind, link, serve\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "path = Path(sys.argv[1])\nlistening = bind()\nprint(link(listening, sys.argv[2]), flush=True)\n"
        "serve(path, listening, sys.argv[2], lambda: (path / 'stop').exists())\nprint('ended', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(run.path), run_token(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    forged = httpx.get(address, headers={"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"})
    assert "secure" not in forged.headers["set-cookie"].lower(), "without a proxy, nobody may say that there is one"
    with httpx.Client(follow_redirects=True) as client:
        assert client.get(address).status_code == 200
        assert client.get(address.split("?")[0] + "api/next").json()["pairs"] == []
    (run.path / "stop").touch()
    rest, log = process.communicate(timeout=20)
    assert rest == "ended\n"
    assert process.returncode == 0
    assert run_token(run) not in log


def test_the_pages_need_neither_torch_nor_gymnasium_nor_mujoco() -> None:
    script = "import sys, backflip.web.server\nprint([m for m in ('torch', 'gymnasium', 'mujoco') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


# ---- the files of the pages


def test_vendored_files_are_what_their_table_says() -> None:
    table = (STATIC / "vendor" / "README.md").read_text()
    told = dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", table, re.MULTILINE))
    there = {path.name: path for path in (STATIC / "vendor").iterdir() if path.name != "README.md"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == told


def test_pages_load_nothing_from_elsewhere_and_hold_no_inline_code() -> None:
    for path in STATIC.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"https?://|<style|\sstyle=|\son\w+=", text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|eval\(|randomUUID\(", path.read_text())


def test_every_file_that_a_page_asks_for_is_served(insider: TestClient) -> None:
    wanted = {"/static/" + path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.*") if path.suffix != ".md"}
    for page in ("/label", "/run"):
        linked = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', insider.get(page).text))
        assert linked <= wanted
    for path in wanted:
        assert insider.get(path).status_code == 200
