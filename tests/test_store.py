"""What a store promises, on both databases."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from backflip.preferences import Changes, Choice, Comparisons, Preference, apply_changes
from backflip.schema import event, tables
from backflip.segments import Segments
from backflip.store import LEASE_SECONDS, Counts, Store, StoreError, new_uuid

MakeSegments = Callable[..., Segments]
AskMany = Callable[..., list[int]]


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(store: Store) -> Clock:
    clock = Clock()
    store.clock = clock
    return clock


def answer(store: Store, query: int, choice: str = "left", teacher: str = "ana", uuid: str | None = None) -> str:
    given = Preference(uuid or new_uuid(), query, Choice(choice), teacher, 1.5)
    assert store.answer(given)
    return given.uuid


def entries(data: Comparisons | None) -> list[tuple[int, int, int, float]]:
    """D as a sorted list, so that a doubled entry is seen."""
    if data is None:
        return []
    columns = (data.query_ids, data.left.ids, data.right.ids, data.mu)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def standing(store: Store) -> list[tuple[int, str, str]]:
    return [(given.query, given.teacher, given.choice.value) for given, _ in store.preferences()]


def claimed(store: Store, annotator: str, count: int = 1, lease_seconds: float = LEASE_SECONDS) -> list[int]:
    return [claim.query.id for claim in store.claim(annotator, count, lease_seconds)]


class GaveUp(Exception):
    pass


def rolled_back(store: Store, *actions: Callable[[], Any]) -> None:
    """Do something in a transaction that fails at its end."""

    def stretch() -> None:
        with store.transaction():
            for action in actions:
                action()
            raise GaveUp

    with pytest.raises(GaveUp):
        stretch()


# ---- notes and transactions


def test_a_note_is_what_was_last_written(store: Store) -> None:
    assert store.noted("key") is None
    for value in ("one", "two", ""):
        store.note("key", value)
        assert store.noted("key") == value


def test_a_transaction_that_fails_leaves_nothing(store: Store, make_segments: MakeSegments, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    before = store.counts()

    def stretch() -> None:
        store.note("key", "value")
        with store.transaction():
            store.ask(store.add(make_segments(2)).reshape(1, 2))
        answer(store, query)
        assert store.counts().left == 1  # what is written can be read inside

    rolled_back(store, stretch)
    assert (store.counts(), store.noted("key"), store.comparisons()) == (before, None, None)
    answer(store, query)  # and the store can be used as before


def test_the_first_segments_may_be_rolled_back_and_others_added(store: Store, make_segments: MakeSegments) -> None:
    rolled_back(store, lambda: store.add(make_segments(2, steps=4)), lambda: store.recent(1))
    ids = store.add(make_segments(2, steps=5))
    assert store.segments(ids).true_rewards.shape == (2, 5)


def test_others_see_a_transaction_when_it_ends_and_not_before(store: Store, store_url: str, ask_many: AskMany) -> None:
    first, second = ask_many(store, 2)
    with closing(Store(store_url)) as other:
        with store.transaction():
            answer(store, first)
            answer(store, second)
            assert (other.comparisons(), other.counts().left) == (None, 0)
        assert len(entries(other.comparisons())) == 2


def test_a_refusal_inside_a_transaction_can_be_caught_and_the_rest_kept(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    with store.transaction():
        with pytest.raises(StoreError):
            answer(store, 99)
        answer(store, query)
    assert standing(store) == [(query, "ana", "left")]


def content(store: Store) -> dict[str, list[Any]]:
    with store.transaction() as c:
        return {name: [tuple(row) for row in c.execute(sa.select(table))] for name, table in tables.tables.items()}


def test_the_same_calls_with_the_same_clock_give_the_same_content(tmp_path: Path, make_segments: MakeSegments) -> None:
    contents = []
    for name in "ab":
        ticks = iter(range(10_000))
        with closing(Store(tmp_path / name, clock=lambda ticks=ticks: float(next(ticks)))) as store:  # type: ignore[misc]
            for step in range(5):
                ids = store.add(make_segments(6, seed=step), keep=8)
                predicted = np.random.default_rng(step).uniform(size=(3, 3)).astype(np.float32)
                asked = store.ask(ids.reshape(3, 2), predicted, policy_steps=step)
                if step == 3:  # a stretch that a crash took back, and that is done again
                    rolled_back(store, lambda: store.add(make_segments(6)))
                for query in asked[:2]:
                    answer(store, query.id, teacher="oracle", uuid=f"oracle-{query.id}")
                store.rerank(asked[2:], np.full((3, 1), 0.25, np.float32))
                store.expire([asked[2].id - 3])
                store.claim("ana", 2)
            contents.append(content(store))
    assert contents[0] == contents[1]


# ---- segments


@pytest.mark.parametrize(
    "kind",
    [
        {"state": 7},
        {"images": True, "observation": (21, 21, 4), "action": ()},
        {"observation": (40,), "lengths": [1, 4, 2, 3, 4]},
    ],
)
def test_segments_come_back_in_any_order_and_with_states_on_demand_only(
    store: Store, make_segments: MakeSegments, kind: dict[str, Any]
) -> None:
    segments = make_segments(5, **kind)
    ids = store.add(segments)
    order = [4, 0, 4, 2]
    back = store.segments(ids[order], states=True)
    for field in fields(Segments):
        expected = ids if field.name == "ids" else getattr(segments, field.name)
        np.testing.assert_array_equal(getattr(back, field.name), expected[order])
        assert getattr(back, field.name).dtype == expected.dtype
    light = store.segments(ids[order])
    assert light.states.shape == (4, 4, 0)
    np.testing.assert_array_equal(light.actions, segments.actions[order])


def test_numbers_of_segments_are_in_the_order_of_the_segments(store: Store, make_segments: MakeSegments) -> None:
    segments = make_segments(1500)
    ids = store.add(segments)
    assert (np.diff(ids) > 0).all()
    np.testing.assert_array_equal(store.segments(ids).true_rewards, segments.true_rewards)


def test_recent_are_the_newest_and_the_oldest_of_them_come_first(store: Store, make_segments: MakeSegments) -> None:
    assert store.recent(3) is None
    ids = np.concatenate([store.add(make_segments(2, state=3)) for _ in range(3)])
    recent = store.recent(3)
    assert recent is not None
    assert recent.ids.tolist() == ids[-3:].tolist()
    assert recent.states.shape == (3, 4, 0)
    everything = store.recent(100)
    assert everything is not None
    assert everything.ids.tolist() == ids.tolist()


def test_a_sample_is_drawn_from_the_newest_and_each_once(store: "Store", make_segments: Any) -> None:
    numbers = store.add(make_segments(30))
    drawn = store.sample(np.random.default_rng(0), 8, among=10)
    assert drawn is not None
    assert len(set(drawn.ids.tolist())) == 8
    assert set(drawn.ids.tolist()) <= set(numbers[-10:].tolist())
    everything = store.sample(np.random.default_rng(0), 99, among=10)
    assert everything is not None
    assert everything.ids.tolist() == numbers[-10:].tolist()


def test_there_is_no_sample_of_nothing(store: "Store") -> None:
    assert store.sample(np.random.default_rng(0), 8, among=10) is None


def test_no_segments_add_nothing_and_can_be_read(store: Store, make_segments: MakeSegments) -> None:
    assert store.add(make_segments(0)).tolist() == []
    with pytest.raises(StoreError, match="no segments in the store yet"):
        store.segments([])
    store.add(make_segments(1))
    assert len(store.segments([])) == 0


def test_segments_of_another_task_are_refused(store: Store, make_segments: MakeSegments) -> None:
    store.add(make_segments(2))
    with pytest.raises(StoreError, match=r"observations 5x3 float32.* differ .*observations 4x3.* new run directory"):
        store.add(make_segments(2, steps=5))
    assert store.counts().segments == 2


def test_only_the_newest_of_the_never_asked_are_kept_and_the_asked_for_ever(
    store: Store, make_segments: MakeSegments
) -> None:
    first = store.add(make_segments(6), keep=10)
    store.ask(first[:2].reshape(1, 2))
    store.set_clip(int(first[3]), "a drawing keeps nothing")
    second = store.add(make_segments(6), keep=3)
    assert store.counts().segments == 2 + 3
    store.segments(np.concatenate([first[:2], second[3:]]))
    for gone in [*first[2:], *second[:3]]:
        with pytest.raises(StoreError, match="were they pruned"):
            store.segments([int(gone)])


def test_a_number_is_never_used_twice_even_if_all_that_had_one_are_gone(
    store: Store, make_segments: MakeSegments
) -> None:
    first = store.add(make_segments(3), keep=0)
    assert store.counts().segments == 0
    assert store.add(make_segments(1)).min() > first.max()


# ---- asking


def test_a_pair_is_never_asked_twice_in_either_order(store: Store, make_segments: MakeSegments) -> None:
    a, b, c = store.add(make_segments(3)).tolist()
    made = store.ask(np.array([[b, a], [a, b], [b, a], [a, a], [c, a]]))
    assert [(query.left, query.right) for query in made] == [(b, a), (c, a)]
    assert store.ask(np.array([[a, b], [b, a]])) == []
    assert [query.left for query in store.ask(np.array([[a, b], [b, c]]))] == [b]
    assert store.ask(np.zeros((0, 2), np.int64)) == []


def test_a_pair_with_a_pruned_segment_is_passed_over(store: Store, make_segments: MakeSegments) -> None:
    old, new = store.add(make_segments(2)).tolist()
    newest = store.add(make_segments(1), keep=2).tolist()[0]
    predicted = np.array([[0.1, 0.9], [0.3, 0.7]], np.float32)
    (made,) = store.ask(np.array([[old, newest], [new, newest]]), predicted, policy_steps=5)
    assert (made.left, made.right, made.policy_steps) == (new, newest, 5)
    assert made.p_left == pytest.approx((0.9, 0.7))
    assert store.queries([made.id, 10**30, 0, -1]) == [made]


def test_predictions_that_are_not_numbers_are_refused(store: Store, make_segments: MakeSegments) -> None:
    pairs = store.add(make_segments(2)).reshape(1, 2)
    with pytest.raises(ValueError, match="not finite"):
        store.ask(pairs, np.full((2, 1), np.nan, np.float32))
    assert store.counts().asked == 0


def test_the_queries_in_which_the_members_disagree_most_come_first(store: Store, make_segments: MakeSegments) -> None:
    pairs = store.add(make_segments(6)).reshape(3, 2)
    a, b, c = store.ask(pairs, np.array([[0.5, 0.1, 0.4], [0.5, 0.9, 0.6]], np.float32))
    assert store.undrawn(2) == [b.left, b.right, c.left, c.right]
    assert claimed(store, "ana") == []  # not drawn yet
    for number in store.undrawn(10):
        store.set_clip(number, f"clip {number}")
    assert store.undrawn(10) == []
    assert (store.mark_drawn(), store.mark_drawn()) == (3, 0)
    assert claimed(store, "ana", 3) == [b.id, c.id, a.id]


def test_a_claim_names_the_drawings_of_its_sides(store: Store, make_segments: MakeSegments) -> None:
    left, right, third = store.add(make_segments(3)).tolist()
    store.ask(np.array([[left, right], [right, third]]))
    store.set_clip(left, "L")
    assert store.mark_drawn() == 0
    store.set_clip(right, "R")
    assert store.mark_drawn() == 1
    (claim,) = store.claim("ana", 5)
    assert (claim.left_clip, claim.right_clip) == ("L", "R")
    assert store.has_clip("L")
    assert not store.has_clip("other")
    assert store.undrawn(10) == [third]


def test_rerank_and_expire_do_not_touch_what_somebody_holds(store: Store, clock: Clock, ask_many: AskMany) -> None:
    ask_many(store, 3)
    (held,) = claimed(store, "ana")
    free = store.open_queries(unclaimed_only=True)
    queries = store.open_queries()
    assert sorted([held, *(query.id for query in free)]) == [query.id for query in queries]
    store.rerank(queries, np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.9]], np.float32))
    after = {query.id: query.p_left for query in store.open_queries()}
    assert after[held] == ()
    assert [after[query.id] for query in free] == [pytest.approx((0.2, 0.2)), pytest.approx((0.3, 0.9))]
    assert claimed(store, "ben") == [free[1].id]  # the new ranks count
    assert store.expire([query.id for query in queries]) == 1
    assert [query.id for query in store.open_queries()] == sorted([held, free[1].id])
    clock.now += LEASE_SECONDS
    assert store.expire([query.id for query in queries]) == 2
    assert store.counts().expired == 3
    assert store.expire([]) == 0


# ---- claims


def test_a_claim_is_renewed_for_its_holder_and_hidden_from_others(
    store: Store, clock: Clock, ask_many: AskMany
) -> None:
    first, second, third = ask_many(store, 3)
    assert claimed(store, "ana", 2) == [first, second]
    clock.now += LEASE_SECONDS - 1
    assert claimed(store, "ana", 2) == [first, second]
    assert claimed(store, "ben", 2) == [third]
    clock.now += LEASE_SECONDS - 1
    assert claimed(store, "ben", 3) == [third]
    assert claimed(store, "ana", 1) == [first]


def test_an_expired_lease_can_be_claimed_by_anybody(store: Store, clock: Clock, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    assert claimed(store, "ana", lease_seconds=10) == [query]
    clock.now += 9.5
    assert claimed(store, "ben") == []
    clock.now += 0.5
    assert claimed(store, "ben") == [query]
    assert claimed(store, "ana") == []


def test_a_skipped_query_goes_to_others_but_never_back_to_the_same_person(
    store: Store, clock: Clock, ask_many: AskMany
) -> None:
    (query,) = ask_many(store, 1)
    claimed(store, "ana")
    uuid = new_uuid()
    assert store.skip(uuid, query, "ana")
    assert not store.skip(uuid, query, "ana")
    with pytest.raises(StoreError, match="already stands"):
        store.skip(uuid, query, "ben")
    assert claimed(store, "ana") == []
    assert claimed(store, "ben") == [query]
    store.skip(new_uuid(), query, "ana")  # a late skip takes nothing from its holder
    assert claimed(store, "cleo") == []
    clock.now += LEASE_SECONDS
    assert claimed(store, "ana") == []
    assert (store.counts().labels, store.changes().touched.tolist()) == (0, [])


# ---- answers


def test_an_answer_is_stored_once_however_often_it_is_sent(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    given = Preference(new_uuid(), query, Choice.RIGHT, "ana", 2.5)
    assert [store.answer(given), store.answer(given), store.answer(given)] == [True, False, False]
    assert [stored for stored, _ in store.preferences()] == [given]
    assert entries(store.comparisons())[0][-1] == 0.0


def test_the_uuid_of_another_answer_is_refused(store: Store, ask_many: AskMany) -> None:
    first, second = ask_many(store, 2)
    uuid = answer(store, first)
    for query, choice, teacher in [(second, "left", "ana"), (first, "right", "ana"), (first, "left", "ben")]:
        with pytest.raises(StoreError, match=f"{uuid} already stands for 'left' on query {first}"):
            answer(store, query, choice, teacher, uuid)
    assert standing(store) == [(first, "ana", "left")]


@pytest.mark.parametrize("query", [0, -1, 99, 2**63, 10**30, -(10**30)])
def test_an_answer_to_no_query_is_refused(store: Store, query: int) -> None:
    with pytest.raises(StoreError, match=f"there is no query {query}"):
        answer(store, query)


def test_a_change_of_mind_supersedes(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    first = answer(store, query, "left")
    answer(store, query, "equal")
    assert standing(store) == [(query, "ana", "equal")]
    assert [entry[-1] for entry in entries(store.comparisons())] == [0.5]
    assert store.undo(new_uuid(), "ana", first) is None  # there is nothing of it left to take back
    answer(store, query, "incomparable")
    assert store.comparisons() is None
    assert store.counts() == Counts(2, 1, 0, 0, 0, left=0, equal=0, right=0, incomparable=1)
    assert store.counts().labels == 1


def test_the_late_answer_of_an_expired_lease_is_a_preference_of_another_teacher(
    store: Store, clock: Clock, ask_many: AskMany
) -> None:
    (query,) = ask_many(store, 1)
    claimed(store, "ana")
    clock.now += LEASE_SECONDS
    assert claimed(store, "ben") == [query]
    answer(store, query, "left", "ben")
    answer(store, query, "right", "ana")
    assert standing(store) == [(query, "ben", "left"), (query, "ana", "right")]
    assert [entry[-1] for entry in entries(store.comparisons())] == [0.0, 1.0]
    assert store.open_queries() == []


def test_d_says_who_answered(store: Store, ask_many: AskMany) -> None:
    first, second = ask_many(store, 2)
    answer(store, first, "left", "ana")
    answer(store, first, "right", "Bénédicte 🤖")
    answer(store, second, "incomparable", "cem")
    answer(store, second, "equal", "dan")
    data = store.comparisons()
    assert data is not None
    assert data.teachers is not None
    assert data.query_ids.tolist() == [first, first, second]
    assert data.teachers.tolist() == ["ana", "Bénédicte 🤖", "dan"]


def test_an_answer_to_a_query_that_was_taken_back_is_kept(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    assert store.expire([query]) == 1
    answer(store, query)
    assert (store.counts().left, store.counts().expired) == (1, 0)


def test_only_the_newest_preferences_are_read_if_so_asked(store: Store, ask_many: AskMany) -> None:
    queries = ask_many(store, 3)
    for query in queries:
        answer(store, query)
    assert [given.query for given, _ in store.preferences(newest=2)] == queries[1:]
    assert [query.id for _, query in store.preferences()] == queries


# ---- undo


def test_an_undone_query_is_open_again_and_the_annotators_own(store: Store, clock: Clock, ask_many: AskMany) -> None:
    first, second = ask_many(store, 2)
    claimed(store, "ana")
    uuid = answer(store, first)
    assert store.undo(new_uuid(), "ana", uuid) == first
    assert (store.comparisons(), standing(store)) == (None, [])
    assert claimed(store, "ben", 2) == [second]
    assert claimed(store, "ana", 2) == [first]
    clock.now += 2 * LEASE_SECONDS
    assert first in claimed(store, "ben", 2)


def test_an_answer_is_undone_once(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    uuid, undo = answer(store, query), new_uuid()
    assert store.undo(undo, "ana", uuid) == query
    assert store.undo(undo, "ana", uuid) is None
    assert store.undo(new_uuid(), "ana", uuid) is None
    again = answer(store, query, "right")
    assert store.undo(new_uuid(), "ana", uuid) is None
    assert standing(store) == [(query, "ana", "right")]
    assert store.undo(new_uuid(), "ana", again) == query


def test_what_is_not_ones_own_answer_cannot_be_undone(store: Store, ask_many: AskMany) -> None:
    first, second = ask_many(store, 2)
    uuid, undo, skip = answer(store, first), new_uuid(), new_uuid()
    store.skip(skip, second, "ana")
    for annotator, undone in [("ben", uuid), ("ana", "nothing"), ("ben", skip)]:
        with pytest.raises(StoreError, match=r"there is no answer .* to take back"):
            store.undo(new_uuid(), annotator, undone)
    store.undo(undo, "ana", uuid)
    with pytest.raises(StoreError, match="there is no answer"):
        store.undo(new_uuid(), "ana", undo)


@pytest.mark.parametrize("leave", ["skip", "flag"])
def test_a_skip_or_flag_can_be_taken_back(store: Store, ask_many: AskMany, leave: str) -> None:
    (query,) = ask_many(store, 1)
    claimed(store, "ana")
    uuid, undo = new_uuid(), new_uuid()
    getattr(store, leave)(uuid, query, "ana")
    assert claimed(store, "ana") == []
    assert store.undo(undo, "ana", uuid) is not None
    assert store.undo(undo, "ana", uuid) is None
    assert (claimed(store, "ana"), claimed(store, "ben")) == ([query], [])
    assert (store.counts().flagged, store.counts().labels) == (0, 0)


def test_what_is_taken_back_is_not_taken_from_who_has_it_meanwhile(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    uuid = new_uuid()
    store.skip(uuid, query, "ana")
    assert claimed(store, "ben") == [query]
    store.undo(new_uuid(), "ana", uuid)
    assert (claimed(store, "ben"), claimed(store, "ana")) == ([query], [])


def test_a_query_that_somebody_else_flagged_too_stays_flagged(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    mine = new_uuid()
    store.flag(mine, query, "ana")
    store.flag(new_uuid(), query, "ben")
    store.undo(new_uuid(), "ana", mine)
    assert (store.counts().flagged, claimed(store, "ana")) == (1, [])


def test_the_uuid_of_an_undo_cannot_be_used_for_another(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    first, undo = answer(store, query), new_uuid()
    store.undo(undo, "ana", first)
    second = answer(store, query, "right")
    for uuid in (undo, first, second):
        with pytest.raises(StoreError, match="already stands"):
            store.undo(uuid, "ana", second)
    assert standing(store) == [(query, "ana", "right")]


def test_an_undone_query_that_others_answered_stays_answered(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    mine, theirs = answer(store, query), answer(store, query, "right", "ben")
    assert store.undo(new_uuid(), "ana", mine) is not None
    assert (store.open_queries(), standing(store)) == ([], [(query, "ben", "right")])
    assert store.undo(new_uuid(), "ben", theirs) is not None
    assert claimed(store, "ben") == [query]


def test_an_undone_answer_to_a_query_that_was_never_drawn_is_not_shown(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1, drawn=False)
    uuid = answer(store, query, teacher="oracle")
    assert store.undo(new_uuid(), "oracle", uuid) is not None
    assert claimed(store, "oracle") == []


# ---- what people type is data

HOSTILE = [
    "'; DROP TABLE event; --",
    '"<img src=x onerror=alert(1)>',
    "%s %(x)s :name ? \\ \n\t\r\x1f",
    "naïve 🙂 \u202e \u0301 \ufeff",
    "",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_come_back_as_they_were(store: Store, ask_many: AskMany, text: str) -> None:
    (query,) = ask_many(store, 1)
    assert claimed(store, text) == [query]
    details = {"text": text, text: [text], "more": "\0 \ud800", "n": None}
    assert store.answer(Preference("uuid" + text, query, Choice.LEFT, text), details)
    ((given, _),) = store.preferences()
    assert (given.teacher, given.uuid) == (text, "uuid" + text)
    with store.transaction() as c:
        assert json.loads(c.execute(sa.select(event.c.details)).scalar() or "") == details
    assert store.undo(text, text, given.uuid) == query
    assert claimed(store, text) == [query]
    store.note(text, text)
    assert store.noted(text) == text


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 a pair"])
def test_text_that_no_database_can_keep_is_refused_with_a_sentence(store: Store, ask_many: AskMany, text: str) -> None:
    (query,) = ask_many(store, 1)
    attempts: list[Callable[[], Any]] = [
        lambda: store.claim(text),
        lambda: store.answer(Preference(text, query, Choice.LEFT, "ana")),
        lambda: store.answer(Preference("uuid", query, Choice.LEFT, text)),
        lambda: store.skip(text, query, "ana"),
        lambda: store.undo(text, text, text),
        lambda: store.note("key", text),
        lambda: store.noted(text),
        lambda: store.has_clip(text),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match="cannot be stored"):
            attempt()
    assert content(store)["event"] == []


def test_a_time_that_is_no_number_was_not_measured(store: Store, ask_many: AskMany) -> None:
    for query, seconds in zip(ask_many(store, 3), (float("nan"), float("inf"), None), strict=True):
        store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana", seconds))
    assert [given.seconds for given, _ in store.preferences()] == [None] * 3


# ---- D by increments is D


def test_changes_after_the_last_event_are_none(store: Store, ask_many: AskMany) -> None:
    assert store.changes().last == 0
    (query,) = ask_many(store, 1)
    answer(store, query)
    first = store.changes()
    assert (first.touched.tolist(), first.last) == ([query], 1)
    later = store.changes(after=first.last)
    assert (later.touched.tolist(), later.comparisons, later.last) == ([], None, 1)


@pytest.mark.parametrize("seed", range(4))
def test_data_built_from_increments_is_data_read_whole(store: Store, ask_many: AskMany, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries = ask_many(store, 8)
    model: dict[tuple[int, str], tuple[str, str]] = {}  # (query, teacher) -> (UUID, choice)
    given: list[tuple[str, str]] = []
    data, last, number = None, 0, 0

    def act() -> None:
        nonlocal number
        number += 1
        query, teacher = int(rng.choice(queries)), str(rng.choice(["ana", "ben", "cleo"]))
        what = rng.random()
        if what < 0.6:
            choice = str(rng.choice([choice.value for choice in Choice]))
            answer(store, query, choice, teacher, f"answer {number}")
            model[query, teacher] = (f"answer {number}", choice)
            given.append((teacher, f"answer {number}"))
        elif what < 0.7:
            store.skip(f"skip {number}", query, teacher)
        elif given:
            who, uuid = given[int(rng.integers(len(given)))]
            undone = store.undo(f"undo {number}", who, uuid)
            there = [key for key, (standing_uuid, _) in model.items() if standing_uuid == uuid]
            assert (undone is not None) == bool(there)
            for key in there:
                del model[key]

    for _ in range(40):
        if rng.random() < 0.1:
            remembered = dict(model), list(given)
            rolled_back(store, act, act)
            model, given = remembered
        elif rng.random() < 0.2:
            with store.transaction():
                act()
                act()
        else:
            act()
        if rng.random() < 0.5:
            changes = store.changes(after=last)
            data, last = apply_changes(data, changes), changes.last
            assert entries(data) == entries(store.comparisons())
    data = apply_changes(data, store.changes(after=last))
    assert entries(data) == entries(store.comparisons())
    assert sorted(standing(store)) == sorted((query, who, choice) for (query, who), (_, choice) in model.items())


def test_a_moment_seen_by_changes_has_no_later_event_in_it(store: Store, store_url: str, ask_many: AskMany) -> None:
    # Somebody changes their mind just after `changes` has looked which event is the newest.
    first, second = ask_many(store, 2)
    answer(store, first, "left")
    with closing(Store(store_url)) as other:
        statements: list[str] = []

        def interfere(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if "received_at" in statement and not statements:
                statements.append(statement)
                answer(other, first, "right")
                answer(other, second)

        sa.event.listen(store.engine, "after_cursor_execute", interfere)
        seen: Changes = store.changes()
        sa.event.remove(store.engine, "after_cursor_execute", interfere)
    assert len(statements) == 1
    assert (seen.last, [entry[-1] for entry in entries(seen.comparisons)]) == (1, [1.0])
    after = apply_changes(seen.comparisons, store.changes(after=seen.last))
    assert entries(after) == entries(store.comparisons())
    assert [entry[-1] for entry in entries(after)] == [0.0, 1.0]
