"""What the run page hears: clips and pairs in the right order, annotators, reliability, downloads."""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.exceptions import StarletteDeprecationWarning

from backflip.clip_rewards import ClipRewards
from backflip.exchange.bring_texts import UNDATED
from backflip.exchange.bundle import outgoing
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Checks, Store, new_uuid
from backflip.web import run_api
from backflip.web.app import create_app
from backflip.web.security import run_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

HERE = "http://127.0.0.1:8642"


class Desk:
    """A run with its page's server, and short ways to fill it."""

    def __init__(self, run: RunDir, store: Store, client: TestClient) -> None:
        self.run, self.store, self.client = run, store, client

    def get(self, path: str, **query: Any) -> Any:
        reply = self.client.get(path, params=query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def ask(self, predictions: list[float], drawn: bool = True) -> list[int]:
        """Queries that r̂ had predicted something of, by three members that agree; the policy's steps count up by 10."""
        n = 2 * len(predictions)
        segments = Segments(
            ids=np.full(n, -1, np.int64),
            observations=np.zeros((n, 3, 2), np.float32),
            actions=np.zeros((n, 3, 1), np.float32),
            true_rewards=np.zeros((n, 3), np.float32),
            states=np.zeros((n, 3, 0), np.float32),
            policy_steps=10 * np.arange(1, n + 1),
            lengths=np.full(n, 3, np.int64),
        )
        ids = self.store.add(segments)
        p_left = np.tile(np.array(predictions, np.float32), (3, 1))
        made = self.store.ask(ids.reshape(-1, 2), p_left, policy_steps=500)
        if drawn:
            with self.store.transaction():
                for number in ids.tolist():
                    self.store.set_clip(number, draw_clip(self.run, number))
                self.store.mark_drawn()
        return [query.id for query in made]

    def answer(self, query: int, choice: Choice, teacher: str = "ana", seconds: float | None = None) -> str:
        uuid = new_uuid()
        self.store.answer(Preference(uuid, query, choice, teacher, seconds))
        return uuid

    def rewards(self, rewards: dict[int, list[list[float]]], version: int = 1) -> None:
        """Say what each member gives for each step of some segments."""
        told = np.array(list(rewards.values()), np.float32).transpose(1, 0, 2)
        ids, lengths = np.array(list(rewards), np.int64), np.full(len(rewards), told.shape[2])
        ClipRewards(ids, lengths, told, version, 1000).save(self.run.clip_rewards)


def draw_clip(run: RunDir, number: int) -> str:
    name = hashlib.sha256(str(number).encode()).hexdigest()
    (run.clips / f"{name}.png").write_bytes(b"a picture")
    meta = {"frame_width": 8, "frame_height": 8, "columns": 2, "frames": 3, "fps": 10, "mime": "image/png"}
    (run.clips / f"{name}.json").write_text(json.dumps(meta))
    return name


@contextmanager
def desk_of(path: Path, **settings: Any) -> Iterator[Desk]:
    given = {"seed": 1, "task": "hopper", "question": "Which?", "teacher": "people"}
    run = RunDir.create(path, given | settings)
    app = create_app(run, run_token(run))
    with closing(app.state.context.store) as store:
        client = TestClient(app, base_url=HERE)
        client.get("/run", params={"token": run_token(run)})
        yield Desk(run, store, client)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_of(tmp_path / "run") as made:
        yield made


# ---- pairs


def test_pairs_come_by_their_surprise_and_the_least_expected_answer_first(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.6, 0.2, 0.9, 0.5])
    for query, choice in zip(queries, ["right", "left", "left", "equal", "incomparable"], strict=True):
        desk.answer(query, Choice(choice))
    found = desk.get("/api/pairs")
    # -log 0.1, -log 0.2, -(log 0.9 + log 0.1)/2, -log 0.6; what cannot be told has no surprise
    assert [pair["query"] for pair in found["pairs"]] == [queries[i] for i in (0, 2, 3, 1)]
    expected = [math.log(10), math.log(5), -0.5 * math.log(0.09), -math.log(0.6)]
    assert [pair["surprise"] for pair in found["pairs"]] == pytest.approx(expected, rel=1e-6)
    first = found["pairs"][0]
    assert (first["choice"], first["teacher"], first["policy_steps"]) == ("right", "ana", 500)
    assert first["predicted_left"] == pytest.approx(0.9)
    assert first["left"]["frames"] == 3
    newest = desk.get("/api/pairs", order="newest")
    assert [pair["query"] for pair in newest["pairs"]] == queries[::-1]
    assert newest["pairs"][0]["surprise"] is None


def test_pairs_are_only_answers_that_count(desk: Desk) -> None:
    queries = desk.ask([0.9] * 4)
    uuids = [desk.answer(query, Choice.LEFT) for query in queries]
    desk.answer(queries[0], Choice.RIGHT)  # ana changed her mind
    desk.store.undo(new_uuid(), "ana", uuids[1])
    desk.store.exclude(new_uuid(), "boss", uuids[2])
    desk.store.relabel(Preference(new_uuid(), queries[3], Choice.EQUAL, "boss"), uuids[3])
    found = desk.get("/api/pairs", order="newest")["pairs"]
    assert [(p["query"], p["choice"], p["teacher"]) for p in found] == [
        (queries[3], "equal", "boss"),
        (queries[0], "right", "ana"),
    ]


def test_what_was_asked_to_measure_an_annotator_is_no_pair_of_d(desk: Desk) -> None:
    queries = desk.ask([0.9] * 12)
    for query in queries[:11]:
        desk.answer(query, Choice.LEFT)
    again = desk.store.claim("ana", checks=Checks(repeats=1.0))[0]
    assert again.purpose == "repeat"
    showing = desk.store.shown(again.showing, "ana")
    desk.store.answer(Preference(new_uuid(), again.query.id, Choice.RIGHT, "ana"), showing=showing)
    assert desk.get("/api/pairs")["total"] == 11
    row = desk.get("/api/annotators")["annotators"][0]["summary"]
    assert row["answers"] == 12
    assert (row["consistency"]["value"], row["consistency"]["of"]) == (0.0, 1)


def test_every_pair_is_on_one_page(desk: Desk) -> None:
    queries = desk.ask([0.5 + i / 100 for i in range(30)], drawn=False)
    for query in queries:
        desk.answer(query, Choice.RIGHT)
    pages = [desk.get("/api/pairs", page=page) for page in (1, 2, 3, 4)]
    assert [len(page["pairs"]) for page in pages] == [12, 12, 6, 0]
    assert {(page["total"], page["pages"]) for page in pages} == {(30, 3)}
    assert [pair["query"] for page in pages for pair in page["pairs"]] == queries[::-1]
    assert pages[0]["pairs"][0]["left"] is None, "nobody has drawn it"


def test_pairs_of_one_annotator(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.8, 0.7])
    desk.answer(queries[0], Choice.LEFT, "ana")
    desk.answer(queries[1], Choice.LEFT, "ben & <b>co</b>")
    found = desk.get("/api/pairs", annotator="ben & <b>co</b>")
    assert [pair["query"] for pair in found["pairs"]] == [queries[1]]
    assert desk.get("/api/pairs", annotator="nobody")["pairs"] == []


def test_a_gold_pair_says_what_is_right_and_why(desk: Desk) -> None:
    query = desk.ask([0.9])[0]
    desk.answer(query, Choice.LEFT)
    desk.store.set_gold(query, Choice.RIGHT, "it lands upright")
    pair = desk.get("/api/pairs")["pairs"][0]
    assert (pair["gold"], pair["gold_why"]) == ("right", "it lands upright")


# ---- clips


def test_clips_are_sorted_by_the_sum_of_r_hat_and_by_disagreement(desk: Desk) -> None:
    desk.ask([0.9, 0.9])
    # Two members over three steps. Sums: 1: (3, 3), 2: (6, 0), 3: (9, 7), 4: (-3, -5).
    desk.rewards(
        {
            1: [[1, 1, 1], [1, 1, 1]],
            2: [[2, 2, 2], [0, 0, 0]],
            3: [[3, 3, 3], [3, 3, 1]],
            4: [[-1, -1, -1], [-1, -2, -2]],
        },
        version=7,
    )

    def order(sort: str) -> list[int]:
        return [clip["segment"] for clip in desk.get("/api/clips", sort=sort)["clips"]]

    assert order("highest") == [3, 2, 1, 4], "8, 3, 3, -4; of equals the newest first"
    assert order("lowest") == [4, 2, 1, 3]
    assert order("disagreed") == [2, 4, 3, 1], "3, 1, 1, 0"
    assert order("newest") == [4, 3, 2, 1]
    assert order("flagged") == []
    found = desk.get("/api/clips")
    assert (found["version"], found["total"], found["steps"]) == (7, 4, [10, 40])
    best = found["clips"][0]
    assert (best["reward"], best["disagreement"], best["policy_steps"], best["length"]) == (8.0, 1.0, 30, 3)


def test_clips_between_two_steps_of_the_policy(desk: Desk) -> None:
    desk.ask([0.9] * 30)
    found = desk.get("/api/clips", **{"sort": "newest", "from": 300, "to": 320})
    assert [clip["policy_steps"] for clip in found["clips"]] == [320, 310, 300]
    assert found["steps"] == [10, 600], "of all"
    pages = [desk.get("/api/clips", sort="newest", page=page)["clips"] for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [24, 24, 12]
    assert [clip["segment"] for page in pages for clip in page] == list(range(60, 0, -1))


def test_before_there_is_an_r_hat_clips_come_without_it(desk: Desk) -> None:
    desk.ask([0.9])
    assert desk.get("/api/clips")["clips"] == []
    newest = desk.get("/api/clips", sort="newest")
    assert newest["version"] is None
    assert [clip["reward"] for clip in newest["clips"]] == [None, None]


def test_flagged_clips_say_why(desk: Desk) -> None:
    desk.ask([0.9, 0.8])
    desk.store.flag(new_uuid(), 1, "ana", "the left one is black")
    found = desk.get("/api/clips", sort="flagged")["clips"]
    assert [(clip["segment"], clip["flagged"]) for clip in found] == [
        (2, "the left one is black"),
        (1, "the left one is black"),
    ]


def test_a_clip_with_every_members_reward_and_what_was_said_of_it(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.8])
    desk.rewards({2: [[1, 2, 3], [4, 5, 6]]})
    desk.answer(queries[0], Choice.RIGHT)
    found = desk.get("/api/clips/2")
    assert found["members"] == [[1, 2, 3], [4, 5, 6]]
    assert found["reward"] == 10.5
    assert found["answers"] == [{"query": queries[0], "side": "right", "other": 1, "choice": "right", "teacher": "ana"}]
    assert desk.get("/api/clips/4")["members"] == []
    assert desk.client.get("/api/clips/99").status_code == 404


def test_a_drawing_that_is_lost_is_none(desk: Desk) -> None:
    desk.ask([0.9])
    for file in desk.run.clips.glob("*.png"):
        file.unlink()
    assert [clip["clip"] for clip in desk.get("/api/clips", sort="newest")["clips"]] == [None, None]


@pytest.mark.parametrize(
    "address",
    [
        "clips?sort=best",
        "clips?page=0",
        "clips?from=-1",
        "clips?to=9223372036854775808",
        "clips/x",
        "clips/-1",
        "pairs?order=worst",
        "pairs?page=x",
        "pairs?annotator=" + 300 * "a",
        "annotators?since=-2",
        "labels?since=x",
        "events.jsonl?names=perhaps",
    ],
)
def test_bad_addresses_are_refused_with_422(desk: Desk, address: str) -> None:
    assert desk.client.get(f"/api/{address}").status_code == 422


# ---- tables


def test_annotators_are_those_who_answered_and_those_who_were_invited(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.9, 0.9, 0.1])
    desk.store.invite("ana", quota=20)
    desk.store.invite("zoe", "view")
    desk.store.revoke("zoe")
    desk.store.instruct("Which flips?")
    for query, seconds in zip(queries, [2.0, 3.0, None, 10.0], strict=True):
        desk.answer(query, Choice.LEFT, seconds=seconds)
    desk.answer(queries[0], Choice.RIGHT, "ben")
    found = desk.get("/api/annotators")
    assert [person["name"] for person in found["annotators"]] == ["ana", "ben", "zoe"]
    ana, ben, zoe = found["annotators"]
    assert (ana["account"]["role"], ana["account"]["quota"], ben["account"]) == ("label", 20, None)
    assert zoe["summary"] is None
    assert zoe["account"]["revoked_at"] is not None
    assert (ana["summary"]["answers"], ana["summary"]["seconds"]) == (4, 3.0)
    assert ana["summary"]["reward"]["value"] == 0.75, "r̂ had predicted three of the four"
    assert (ana["summary"]["overlap"]["value"], ana["summary"]["overlap"]["of"]) == (0.0, 1)
    assert found["instruction"]["text"] == "Which flips?"
    assert found["assumed"] == 0.1


def test_error_rates_come_when_they_have_been_estimated(desk: Desk) -> None:
    for query in desk.ask([0.9] * 12, drawn=False):
        desk.answer(query, Choice.LEFT)
    found = desk.get("/api/annotators")
    assert (found["estimating"], found["annotators"][0]["summary"]["error_rate"]) == (True, None)
    deadline = time.monotonic() + 60
    while found["estimating"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        found = desk.get("/api/annotators")
    rate = found["annotators"][0]["summary"]["error_rate"]
    assert 0 <= rate["low"] < rate["value"] < rate["high"] <= 1
    assert rate["of"] == 12


@pytest.mark.parametrize("table", ["annotators", "labels", "reliability"])
def test_a_table_comes_again_only_where_something_is_new(desk: Desk, table: str) -> None:
    queries = desk.ask([0.9, 0.8])
    before = desk.get(f"/api/{table}")["newest"]
    assert before == 0
    desk.answer(queries[0], Choice.LEFT)
    newest = desk.get(f"/api/{table}", since=before)["newest"]
    assert newest > before
    assert desk.get(f"/api/{table}", since=newest) is None
    desk.answer(queries[0], Choice.RIGHT)
    assert desk.get(f"/api/{table}", since=newest) is not None


def test_reliability_is_how_often_what_was_predicted_came_true(desk: Desk) -> None:
    queries = desk.ask([0.95, 0.95, 0.05, 0.95, 0.6])
    for query, choice in zip(queries, ["left", "left", "right", "right", "equal"], strict=True):
        desk.answer(query, Choice(choice))
    found = desk.get("/api/reliability")
    assert found["of"] == 4, "a tie chose no side"
    (row,) = found["rows"]
    assert (row["low"], row["high"]) == pytest.approx((0.9, 1.0))
    assert row["predicted"] == pytest.approx(0.95)
    assert (row["share"]["value"], row["share"]["of"]) == (0.75, 4)


def test_labels_by_when_they_came_and_how_long_they_took(desk: Desk) -> None:
    now = [1_700_000_000.0]
    desk.store.clock = lambda: now[0]
    queries = desk.ask([0.9] * 5)
    for query, (at, seconds) in zip(queries, [(0, 0.4), (30, 1.2), (61, 1.4), (3000, 99.0)], strict=False):
        now[0] = 1_700_000_040.0 + at
        desk.answer(query, Choice.LEFT, seconds=seconds)
    desk.store.skip(new_uuid(), queries[4], "ana")
    now[0] += 600
    found = desk.get("/api/labels")
    assert [(bar["start"], bar["count"]) for bar in found["seconds"] if bar["count"]] == [(0.0, 1), (1.0, 2), (11.5, 1)]
    assert found["median_seconds"] == pytest.approx(1.3)
    assert found["pace_seconds"] == 60.0
    begin = 1_700_000_040.0 // 60 * 60
    came = {bar["start"] - begin: bar["count"] for bar in found["pace"] if bar["count"]}
    assert came == {0.0: 2, 60.0: 1, 3000.0: 1}
    assert len(found["pace"]) == 51
    assert found["last_hour"] == 3
    assert found["kinds"] == {"left": 4, "skip": 1}
    assert found["purposes"] == {"label": 4}


def test_answers_out_of_files_that_do_not_say_when_have_no_date(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.8, 0.7])
    desk.store.clock = lambda: UNDATED
    desk.answer(queries[0], Choice.LEFT, "file")
    undated = desk.get("/api/labels")
    assert (undated["pace"], undated["last_hour"], undated["purposes"]) == ([], 0, {"label": 1})
    desk.store.clock = lambda: 1_700_000_000.0
    desk.answer(queries[1], Choice.LEFT)
    desk.answer(queries[2], Choice.LEFT, "file")
    assert [pair["at"] for pair in desk.get("/api/pairs", order="newest")["pairs"]] == [1_700_000_000.0] * 2 + [None]
    assert len(desk.get("/api/labels")["pace"]) == 1
    desk.store.clock = lambda: UNDATED
    desk.answer(desk.ask([0.6])[0], Choice.LEFT, "hh")
    seen = {one["name"]: one["summary"]["last_seen"] for one in desk.get("/api/annotators")["annotators"]}
    assert seen == {"ana": 1_700_000_000.0, "file": 1_700_000_000.0, "hh": None}


def test_a_run_that_takes_turns_has_the_steps_of_its_policy_in_the_place_of_dates(tmp_path: Path) -> None:
    with desk_of(tmp_path / "run", teacher="oracle", mode="in_turn") as desk:
        queries = desk.ask([0.9, 0.8, 0.7, 0.6])
        for query, step in zip(queries, (0, 300, 12_000, 60_000), strict=True):
            desk.store.clock = lambda step=step: float(step)  # type: ignore[misc]
            desk.answer(query, Choice.LEFT, "oracle")
        desk.store.clock = lambda: 1_700_000_000.0
        desk.store.relabel(
            Preference(new_uuid(), queries[0], Choice.RIGHT, "you", None), desk.get("/api/pairs")["pairs"][-1]["uuid"]
        )
        labels = desk.get("/api/labels")
        assert (labels["in_turn"], labels["last_hour"], labels["pace_seconds"]) == (True, None, 1000)
        assert [(bar["start"], bar["count"]) for bar in labels["pace"] if bar["count"]] == [
            (0, 1),
            (12_000, 1),
            (60_000, 1),
        ]
        assert {pair["at"] for pair in desk.get("/api/pairs")["pairs"]} == {None}, "the step of the question is there"
        found = desk.get("/api/annotators")
        assert found["in_turn"]
        seen = {one["name"]: one["summary"]["last_seen"] for one in found["annotators"]}
        assert seen == {"oracle": 60_000, "you": None}


# ---- downloads


def test_all_events_can_be_downloaded_however_many_are_read_at_a_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_api, "EVENTS_AT_ONCE", 2)
    queries = desk.ask([0.9, 0.8, 0.7])
    uuids = [desk.answer(query, Choice.LEFT, "añna", 1.5) for query in queries]
    desk.store.undo(new_uuid(), "añna", uuids[1])
    desk.answer(queries[1], Choice.EQUAL, "ben")
    reply = desk.client.get("/api/events.jsonl")
    assert reply.headers["content-disposition"].startswith("attachment; filename=")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert [line["kind"] for line in lines] == ["left", "left", "left", "undo", "equal"]
    assert lines[3]["supersedes"] == uuids[1]
    assert lines[0]["query"]["p_left"] == pytest.approx([0.9] * 3)
    assert not {"lease_holder", "lease_until", "token_hash"} & set(lines[0]["query"])
    nameless = [json.loads(line) for line in desk.client.get("/api/events.jsonl?names=false").text.splitlines()]
    assert [line["teacher"] for line in nameless] == ["annotator-1"] * 4 + ["annotator-2"]


def test_a_download_is_sent_many_lines_at_a_time() -> None:
    lines = [f"é {i}\n" for i in range(20_000)]
    parts = list(run_api.in_parts(iter(lines)))
    assert b"".join(parts).decode() == "".join(lines)
    assert [2**16 <= len(part) < 2**16 + 10 for part in parts] == [True, True, False]
    assert b"".join(run_api.in_parts(iter([]))) == b""


def test_people_without_names_are_called_the_same_here_and_by_the_command_line(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.8, 0.7])
    desk.store.skip(new_uuid(), queries[0], "cas")
    desk.store.skip(new_uuid(), queries[1], "dia")
    for query, choice, teacher in zip(queries, Choice, ("ana", "oracle", "bea"), strict=False):
        desk.answer(query, choice, teacher)
    desk.answer(queries[0], Choice.EQUAL, "cas")
    reply = desk.client.get("/api/events.jsonl?names=false")
    exported = outgoing(desk.run, desk.store, without_names=True).events
    assert [json.loads(line)["teacher"] for line in reply.text.splitlines()] == [one["teacher"] for one in exported]
    assert [one["teacher"] for one in exported] == [
        *("annotator-3", "annotator-4", "annotator-1", "oracle", "annotator-2", "annotator-3")
    ], "in the order of their first answers"
    reply = desk.client.get("/api/preferences.jsonl?names=false")
    called = [json.loads(line)["teacher"] for line in reply.text.splitlines()]
    assert called == ["annotator-1", "oracle", "annotator-2", "annotator-3"]


def test_preferences_can_be_downloaded_with_mu_and_what_was_predicted(desk: Desk) -> None:
    queries = desk.ask([0.9, 0.8])
    uuid = desk.answer(queries[0], Choice.RIGHT, seconds=1.5)
    desk.answer(queries[1], Choice.INCOMPARABLE)
    lines = [json.loads(line) for line in desk.client.get("/api/preferences.jsonl").text.splitlines()]
    assert [line["mu"] for line in lines] == [0.0, None]
    assert (lines[0]["uuid"], lines[0]["left"], lines[0]["right"], lines[0]["seconds"]) == (uuid, 1, 2, 1.5)
    assert lines[0]["p_left"] == pytest.approx([0.9] * 3)


def test_a_run_without_answers_has_empty_tables_and_files(desk: Desk) -> None:
    assert desk.client.get("/api/events.jsonl").text == ""
    assert desk.client.get("/api/preferences.jsonl").text == ""
    assert desk.get("/api/pairs")["pairs"] == []
    assert desk.get("/api/clips")["steps"] is None
    assert desk.get("/api/labels")["seconds"] == []
    assert desk.get("/api/reliability")["rows"] == []
    assert desk.get("/api/annotators")["annotators"] == []
