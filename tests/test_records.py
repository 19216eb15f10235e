"""Events as records: out of one store and into another, on both databases."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from backflip import records, stored_segments
from backflip.preferences import Choice, Preference
from backflip.records import Record
from backflip.schema import event
from backflip.segments import Segments
from backflip.store import Store, StoreError, new_uuid

MakeSegments = Callable[..., Segments]
UUID = "00000000-0000-4000-8000-000000000001"


def an_event(**changed: Any) -> Record:
    asked = {"id": 1, "left": "a", "right": "b", "p_left": [0.25, 0.5], "policy_steps": 7, "status": "answered"}
    asked |= changed.pop("query", {})
    given = {
        "uuid": UUID,
        "teacher": "ana",
        "kind": "left",
        "seconds": 2.5,
        "received_at": 1e9,
        "details": {"loops": 2},
    }
    return {**given, **changed, "query": asked}


@pytest.fixture
def numbers(store: Store, make_segments: MakeSegments) -> dict[str, int]:
    return dict(zip("abcd", store.add(make_segments(4)).tolist(), strict=True))


def bring(store: Store, numbers: dict[str, int], *given: Record) -> tuple[int, int, int]:
    with store.transaction() as c:
        new = records.bring(c, store.clock(), [(f"line {i}", record) for i, record in enumerate(given, 1)], numbers)
    return new.queries, new.events, new.known


def events(store: Store) -> list[Record]:
    with store.reading() as c:
        return records.events(c)


def numbers_of(store: Store) -> list[int]:
    with store.reading() as c:
        return stored_segments.numbers(c)


def standing(store: Store) -> list[tuple[int, str, str]]:
    return [(asked.id, given.teacher, given.choice.value) for given, asked in store.preferences()]


def test_a_record_becomes_an_event_and_its_query(store: Store, numbers: dict[str, int]) -> None:
    assert bring(store, numbers, an_event()) == (1, 1, 0)
    ((given, asked),) = store.preferences()
    assert given == Preference(UUID, asked.id, Choice.LEFT, "ana", 2.5)
    assert (asked.left, asked.right, asked.p_left, asked.policy_steps) == (numbers["a"], numbers["b"], (0.25, 0.5), 7)
    assert asked.disagreement == pytest.approx(np.var([0.25, 0.5]))
    (record,) = events(store)
    assert (record["details"], record["received_at"]) == ({"loops": 2}, 1e9)
    data = store.comparisons()
    assert data is not None
    assert data.mu.tolist() == [1.0]


def test_what_is_brought_twice_is_there_once(store: Store, numbers: dict[str, int]) -> None:
    bring(store, numbers, an_event())
    before = events(store)
    assert bring(store, numbers, an_event(), an_event()) == (0, 0, 2)
    assert events(store) == before


def test_an_answer_to_a_pair_the_other_way_round_is_turned(store: Store, numbers: dict[str, int]) -> None:
    (asked,) = store.ask(np.array([[numbers["b"], numbers["a"]]]))
    other = an_event(uuid=UUID.replace("1", "2"), kind="equal", teacher="bea")
    assert bring(store, numbers, an_event(), other) == (0, 2, 0)
    assert standing(store) == [(asked.id, "ana", "right"), (asked.id, "bea", "equal")]
    assert store.counts().open == 0
    assert bring(store, numbers, an_event()) == (0, 0, 1)  # turned again, it is still the same


def test_queries_keep_their_order_and_a_taken_back_answer_stays_so(store: Store, numbers: dict[str, int]) -> None:
    late = {"id": 9, "left": "c", "right": "d", "status": "open"}
    again = an_event(uuid="u4", kind="left", query={"id": 4})
    given = [
        an_event(uuid="u1", query=late),
        an_event(uuid="u2", kind="undo", supersedes="u1", query=late),
        an_event(uuid="u3", kind="skip", seconds=None, query=late),
        again,
        an_event(uuid="u5", kind="right", supersedes="u4", query={"id": 4}),
    ]
    assert bring(store, numbers, *given) == (2, 5, 0)
    first, second = store.queries(range(100))
    assert (first.left, second.left) == (numbers["a"], numbers["c"])
    assert standing(store) == [(first.id, "ana", "right")]
    counts = store.counts()
    assert (counts.open, counts.expired) == (1, 0)


def test_answers_that_measure_their_annotator_are_no_labels_here_either(store: Store, numbers: dict[str, int]) -> None:
    gold = {"gold": "left", "gold_why": "it fell", "wanted": 2, "status": "open"}
    again = an_event(uuid="u2", purpose="repeat", flipped=True, instruction="Look at the legs.", query=gold)
    assert bring(store, numbers, an_event(query=gold), again) == (1, 2, 0)
    assert standing(store) == [(1, "ana", "left")]
    assert store.counts().open == 1  # two people are to answer it
    _, record = events(store)
    assert (record["purpose"], record["flipped"], record["instruction"]) == ("repeat", True, "Look at the legs.")
    assert {name: record["query"][name] for name in gold} == gold
    bring(store, numbers, an_event(uuid="u3", teacher="bea", query=gold))
    assert store.counts().open == 0


def test_sides_that_were_exchanged_on_the_page_are_turned_too(store: Store, numbers: dict[str, int]) -> None:
    store.ask(np.array([[numbers["b"], numbers["a"]]]))
    bring(store, numbers, an_event(flipped=True), an_event(uuid="u2", flipped=None))
    assert [(record["kind"], record["flipped"]) for record in events(store)] == [("right", False), ("right", None)]


def test_what_annotators_read_stays_what_it_is(store: Store, numbers: dict[str, int]) -> None:
    store.instruct("Old.")
    store.instruct("New.")
    store.instruct("Old.")
    for _ in range(2):
        bring(store, numbers, an_event(instruction="Theirs."), an_event(uuid="u2", instruction="New."))
        now = store.instructed()
        assert now is not None
        assert now.text == "Old."
    assert [record["instruction"] for record in events(store)] == ["Theirs.", "New."]


def test_a_pair_that_was_flagged_elsewhere_is_not_shown_here(store: Store, numbers: dict[str, int]) -> None:
    store.ask(np.array([[numbers["a"], numbers["b"]]]))
    bring(store, numbers, an_event(kind="flag", query={"status": "flagged"}))
    assert (store.counts().open, store.counts().flagged) == (0, 1)


def test_an_answer_that_was_excluded_stays_so(store: Store, numbers: dict[str, int]) -> None:
    bring(store, numbers, an_event(), an_event(uuid="u2", kind="exclude", teacher="boss", supersedes=UUID))
    assert (standing(store), store.comparisons(), store.counts().open) == ([], None, 0)


def test_segments_that_somebody_compared_are_kept(
    store: Store, numbers: dict[str, int], make_segments: MakeSegments
) -> None:
    bring(store, numbers, an_event())
    store.add(make_segments(3), keep=1)
    assert numbers_of(store)[:2] == [numbers["a"], numbers["b"]]
    assert len(numbers_of(store)) == 3


def test_a_query_in_somebodys_hands_is_answered_by_what_is_brought(
    store: Store, numbers: dict[str, int], ask_many: Callable[..., list[int]]
) -> None:
    (number,) = ask_many(store, 1)
    store.claim("bea")
    (asked,) = store.queries([number])
    bring(store, {"a": asked.left, "b": asked.right}, an_event())
    assert store.claim("bea") == []


def test_what_a_record_lacks_takes_its_default(store: Store, numbers: dict[str, int]) -> None:
    store.clock = lambda: 5.0
    bare = {
        "uuid": "u",
        "teacher": "ana",
        "kind": "right",
        "received_at": 1,
        "query": {"id": 1, "left": "a", "right": "b"},
    }
    bring(store, numbers, bare)
    (record,) = events(store)
    assert (record["seconds"], record["details"], record["supersedes"]) == (None, {}, None)
    assert (record["query"]["asked_at"], record["query"]["p_left"]) == (5.0, [])


def test_what_is_no_column_is_passed_over(store: Store, numbers: dict[str, int]) -> None:
    assert bring(store, numbers, an_event(colour="red", seq=77, query={"left_episode": {"t0": 0}})) == (1, 1, 0)


def test_a_new_column_goes_along_by_itself(
    tmp_path: Path, make_segments: MakeSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = event.to_metadata(sa.MetaData())
    wider.append_column(sa.Column("mood", sa.Text))
    monkeypatch.setattr(records, "event", wider)
    found: list[Record] = []
    for name in ("one.db", "two.db"):
        with closing(Store(tmp_path / name)) as store:
            with store.transaction() as c:
                c.execute(sa.text("ALTER TABLE event ADD COLUMN mood TEXT"))
            numbers = dict(zip("ab", store.add(make_segments(2)).tolist(), strict=True))
            given = list(found or [an_event(mood="calm")])
            bring(store, numbers, *({**record, "query": an_event()["query"]} for record in given))
            found = events(store)
            assert [record["mood"] for record in found] == ["calm"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"uuid": None}, "its uuid is None, not a text"),
    ({"uuid": "u\0"}, "characters that cannot be stored"),
    ({"uuid": "\ud800"}, "characters that cannot be stored"),
    ({"uuid": "u" * 201}, "its uuid is 'uuuu"),
    ({"teacher": 7}, "its teacher is 7, not a text"),
    ({"teacher": ["ana"]}, "its teacher is"),
    (
        {"kind": "shrug"},
        "its kind is 'shrug', not equal or exclude or flag or incomparable or",
    ),
    ({"seconds": "fast"}, "its seconds is 'fast', not a number"),
    ({"seconds": -1.0}, "its seconds is -1.0"),
    ({"seconds": float("nan")}, "its seconds is nan"),
    ({"seconds": float("inf")}, "its seconds is inf"),
    ({"seconds": 10**400}, "its seconds is 1000"),
    ({"seconds": True}, "its seconds is True"),
    ({"received_at": None}, "its received_at is None"),
    ({"details": "x"}, "its details is 'x', not an object"),
    ({"details": {"x": "y" * 30_000}}, "its details is"),
    ({"supersedes": 3}, "its supersedes is 3"),
    ({"purpose": "whim"}, "its purpose is 'whim', not gold or label or practice or repeat"),
    ({"purpose": None}, "its purpose is None"),
    ({"flipped": "yes"}, "its flipped is 'yes', not true or false"),
    ({"flipped": 1}, "its flipped is 1"),
    ({"instruction": 3}, "its instruction is 3"),
    ({"instruction": ""}, "its instruction is ''"),
    ({"instruction": "x" * 9000}, "its instruction is 'xxx"),
    ({"query": {"gold": "me"}}, "its gold is 'me'"),
    ({"query": {"wanted": -1}}, "its wanted is -1"),
    ({"query": {"id": 0}}, "it has no query with an id from 1 on"),
    ({"query": {"id": 2**63}}, "it has no query with an id from 1 on"),
    ({"query": {"id": "1"}}, "it has no query with an id from 1 on"),
    ({"query": {"left": "z"}}, "its left segment 'z' is not among the segments"),
    ({"query": {"left": ["a"]}}, "its left segment ['a'] is not among the segments"),
    ({"query": {"right": None}}, "its right segment None is not among the segments"),
    ({"query": {"p_left": [2]}}, "its p_left is [2], not a list of numbers from 0 to 1"),
    ({"query": {"p_left": [float("nan")]}}, "its p_left is [nan]"),
    ({"query": {"p_left": [[0.5]]}}, "its p_left is"),
    ({"query": {"p_left": 0.5}}, "its p_left is 0.5"),
    ({"query": {"policy_steps": 1.5}}, "its policy_steps is 1.5, not a whole number"),
    ({"query": {"policy_steps": 2**63}}, "its policy_steps is 9223372036854775808"),
    ({"query": {"status": "lost"}}, "its status is 'lost', not answered or expired or flagged or open"),
    ({"query": {"asked_at": {}}}, "its asked_at is {}"),
]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, make_segments: MakeSegments) -> Iterator[Store]:
    """A store with two segments, which keeps nothing of what is refused."""
    store = Store(tmp_path_factory.mktemp("records") / "run.db")
    store.add(make_segments(2))
    yield store
    assert (events(store), store.counts().asked) == ([], 0)
    store.close()


@pytest.mark.parametrize(("changed", "why"), BAD, ids=[why for _, why in BAD])
def test_a_record_that_cannot_be_is_refused_and_nothing_of_the_others_stays(
    untouched: Store, changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(StoreError) as refused:
        bring(untouched, {"a": 1, "b": 2}, an_event(uuid="fine", query={"id": 7}), an_event(**changed))
    assert why in str(refused.value)
    assert len(str(refused.value)) < 400
    assert events(untouched) == []


@pytest.mark.parametrize("name", ["uuid", "teacher", "kind", "received_at"])
def test_a_record_without_what_every_event_has_is_refused(untouched: Store, name: str) -> None:
    record = {key: value for key, value in an_event().items() if key != name}
    with pytest.raises(StoreError, match=f"line 1: it has no {name}"):
        bring(untouched, {"a": 1, "b": 2}, record)


@pytest.mark.parametrize("record", [{}, {"query": 3}, {"query": None}])
def test_a_record_without_a_query_is_refused(untouched: Store, record: Record) -> None:
    with pytest.raises(StoreError, match="no query with an id"):
        bring(untouched, {"a": 1, "b": 2}, record)


def test_one_query_has_one_pair(store: Store, numbers: dict[str, int]) -> None:
    with pytest.raises(StoreError, match="line 2: query 1 has other segments than before"):
        bring(store, numbers, an_event(), an_event(uuid="u2", query={"right": "c"}))


def test_an_event_cannot_be_rewritten(store: Store, numbers: dict[str, int]) -> None:
    bring(store, numbers, an_event())
    assert bring(store, numbers, an_event(teacher="annotator-3")) == (0, 0, 1)  # the name was left out: the same answer
    for changed in ({"kind": "right"}, {"teacher": "bea"}, {"query": {"id": 2, "left": "c"}}):
        with pytest.raises(StoreError, match="an event cannot be rewritten"):
            bring(store, numbers, an_event(**changed))
    assert standing(store) == [(1, "ana", "left")]


def test_nobody_takes_back_an_answer_about_something_else(store: Store, numbers: dict[str, int]) -> None:
    bring(store, numbers, an_event())
    stranger = an_event(uuid="u2", kind="undo", supersedes=UUID, query={"id": 2, "left": "c", "right": "d"})
    with pytest.raises(StoreError, match="about another query"):
        bring(store, numbers, stranger)
    assert len(standing(store)) == 1


def test_what_the_store_itself_wrote_can_be_brought(
    store: Store, tmp_path: Path, ask_many: Callable[..., list[int]], make_segments: MakeSegments
) -> None:
    first, second, third = ask_many(store, 3)
    store.answer(Preference(new_uuid(), second, Choice.RIGHT, "ana"), {"swap_ms": 3.5})
    store.answer(Preference(new_uuid(), second, Choice.LEFT, "ana", 1.0))
    store.skip(new_uuid(), first, "bea")
    given = Preference(new_uuid(), third, Choice.EQUAL, "bea", 2.0)
    store.answer(given)
    store.undo(new_uuid(), "bea", given.uuid)
    found = json.loads(json.dumps(events(store)))
    with closing(Store(tmp_path / "other.db")) as other:
        same = {str(number): new for number, new in zip(range(1, 7), other.add(make_segments(6)).tolist(), strict=True)}
        for record in found:
            record["query"] |= {side: str(record["query"][side]) for side in ("left", "right")}
        bring(other, same, *found)
        assert events(other) == events(store)
        assert standing(other) == standing(store)
