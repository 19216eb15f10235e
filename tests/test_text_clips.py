"""Clips that are read: what the pages hear of them, and what keeps the run directory in order knows of them."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from starlette.exceptions import StarletteDeprecationWarning

from backflip.backup import back_up
from backflip.clip_rewards import ClipRewards
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.store import new_uuid
from backflip.texts import MIME, Text, save_text
from backflip.tidying import tidy
from backflip.web.app import create_app
from backflip.web.security import run_token
from pages import add_texts, make_run

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

PAIR = ("Once upon", " a time\n", " <script>alert(1)</script>")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = make_run(tmp_path / "run", task="stories", question="Which is the better story?")
    add_texts(run, [PAIR])
    return run


@pytest.fixture
def visitor(run: RunDir) -> Iterator[TestClient]:
    app = create_app(run, run_token(run))
    client = TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)
    client.get("/", params={"token": run_token(run)})
    yield client
    app.state.context.store.close()


def test_a_pair_of_texts_comes_whole_and_there_is_no_drawing_to_fetch(run: RunDir, visitor: TestClient) -> None:
    reply = visitor.get("/api/next", params={"count": 3})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    heard = reply.json()
    assert heard["kind"] == "texts"
    [pair] = heard["pairs"]
    assert {pair[side]["completion"] for side in ("left", "right")} == set(PAIR[1:])
    assert pair["left"].keys() == {"prompt", "completion", "mime"}
    assert (pair["left"]["prompt"], pair["left"]["mime"]) == (PAIR[0], MIME)
    [text, _] = run.clips.glob("*.json")
    assert visitor.get(f"/clips/{text.stem}").status_code == 404


def test_an_answer_about_texts_is_stored_on_the_querys_own_sides(run: RunDir, visitor: TestClient) -> None:
    [pair] = visitor.get("/api/next").json()["pairs"]
    better = "left" if pair["left"]["completion"] == PAIR[2] else "right"
    given = {"uuid": new_uuid(), "showing": pair["showing"], "choice": better, "seconds": 2, "loops": None}
    assert visitor.post("/api/answer", json=given).json()["duplicate"] is False
    assert visitor.post("/api/answer", json=given).json()["duplicate"] is True
    with closing(run.store()) as store:
        assert [preference.choice for preference, _ in store.preferences()] == [Choice.RIGHT]


@pytest.mark.parametrize(
    "damage", [b"", b'{"mime": "text/plain", "prompt": "a"}', b'{"mime": "text/html", "prompt": "", "completion": ""}']
)
def test_a_damaged_text_is_passed_over(run: RunDir, visitor: TestClient, damage: bytes) -> None:
    next(run.clips.glob("*.json")).write_bytes(damage)
    heard = visitor.get("/api/next").json()
    assert (heard["pairs"], heard["passed_over"]) == ([], 1)


def test_before_there_are_segments_and_for_robots_clips_are_films(tmp_path: Path) -> None:
    run = make_run(tmp_path / "empty")
    app = create_app(run, run_token(run))
    client = TestClient(app, base_url="http://127.0.0.1:8642")
    client.get("/", params={"token": run_token(run)})
    assert client.get("/api/next").json()["kind"] == "films"
    app.state.context.store.close()


def test_the_run_page_hears_texts_with_what_r_hat_gives_for_their_single_step(run: RunDir, visitor: TestClient) -> None:
    with closing(run.store()) as store:
        [query] = store.open_queries()
        store.answer(Preference(new_uuid(), query.id, Choice.LEFT, "ana", 1.0))
    ids = np.array([query.left, query.right])
    ClipRewards(ids, np.ones(2, np.int64), np.array([[[1.0], [2]], [[3], [4]]], "f4"), 1, 10).save(run.clip_rewards)
    clips = visitor.get("/api/clips").json()["clips"]
    assert [(clip["clip"]["completion"], clip["reward"]) for clip in clips] == [(PAIR[2], 3), (PAIR[1], 2)]
    assert visitor.get(f"/api/clips/{query.left}").json()["members"] == [[1], [3]]
    [pair] = visitor.get("/api/pairs", params={"order": "newest"}).json()["pairs"]
    assert (pair["left"]["completion"], pair["right"]["completion"]) == PAIR[1:]


def test_a_text_nobody_speaks_of_goes_and_one_that_waits_for_an_answer_stays(run: RunDir) -> None:
    waiting = sorted(run.clips.glob("*.json"))
    stray = run.clips / f"{save_text(run.clips, Text('', 'nobody asks'))}.json"
    long_ago = time.time() - 3600
    os.utime(stray, (long_ago, long_ago))
    with closing(run.store()) as store:
        tidy(run, store, 0)
        assert sorted(run.clips.iterdir()) == waiting
        [query] = store.open_queries()
        store.answer(Preference(new_uuid(), query.id, Choice.LEFT, "ana", 1.0))
        tidy(run, store, 0)
        assert list(run.clips.iterdir()) == []
        assert store.drawn() == []


def test_a_backup_has_the_texts(run: RunDir, tmp_path: Path) -> None:
    copy = back_up(run, tmp_path / "copy").path
    assert {one.name: one.read_bytes() for one in (copy / "clips").iterdir()} == {
        one.name: one.read_bytes() for one in run.clips.iterdir()
    }
