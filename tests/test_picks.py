"""The best of four, stored as three comparisons."""

from collections.abc import Callable

import numpy as np
import pytest

from backflip.picks import among, answers_of, pick
from backflip.preferences import Choice, Preference
from backflip.segments import Segments
from backflip.store import Store, StoreError, new_uuid
from backflip.texts import Text, pack_texts
from pages import segments_of


def picked(store: Store, uuid: str, ids: list[int], best: int, teacher: str = "ana") -> bool:
    with store.transaction() as c:
        return pick(c, store.clock(), uuid, ids, best, teacher, 3.0)


def preferred(store: Store) -> set[tuple[int, int]]:
    """(better, worse) of all answers that stand."""
    return {
        (query.left, query.right) if preference.choice is Choice.LEFT else (query.right, query.left)
        for preference, query in store.preferences()
    }


@pytest.fixture
def four(store: Store, make_segments: Callable[..., Segments]) -> list[int]:
    found: list[int] = store.add(make_segments(4)).tolist()
    return found


def test_a_pick_is_three_comparisons_and_stored_once(store: Store, four: list[int]) -> None:
    uuid = new_uuid()
    assert picked(store, uuid, four, four[2])
    assert not picked(store, uuid, four, four[2])
    assert len(set(answers_of(uuid, four, four[2]).values())) == 3
    assert preferred(store) == {(four[2], other) for other in (four[0], four[1], four[3])}
    assert store.counts().labels == 3
    assert store.open_queries() == []
    comparisons = store.comparisons()
    assert comparisons is not None
    assert comparisons.mu.tolist() == [1, 1, 1]


def test_a_pair_that_was_asked_before_keeps_its_sides(store: Store, four: list[int]) -> None:
    [asked] = store.ask(np.array([[four[0], four[1]]]))
    store.answer(Preference(new_uuid(), asked.id, Choice.LEFT, "ben", 1.0))
    picked(store, new_uuid(), four, four[1])
    said = {(p.teacher, p.query): p.choice for p, _ in store.preferences()}
    assert said["ana", asked.id] is Choice.RIGHT
    assert said["ben", asked.id] is Choice.LEFT


def test_each_answer_of_a_pick_is_undone_or_excluded_like_any_other(store: Store, four: list[int]) -> None:
    uuid = new_uuid()
    picked(store, uuid, four, four[0])
    first, second, _ = answers_of(uuid, four, four[0]).values()
    store.undo(new_uuid(), "ana", first)
    store.exclude(new_uuid(), "owner", second)
    assert preferred(store) == {(four[0], four[3])}
    picked(store, uuid, four, four[0])
    assert preferred(store) == {(four[0], four[3])}, "what was sent again does not come back"


def test_a_pick_under_the_uuid_of_another_leaves_nothing(store: Store, four: list[int]) -> None:
    uuid = new_uuid()
    picked(store, uuid, four, four[0])
    with pytest.raises(StoreError, match="already stands for"):
        picked(store, uuid, four, four[1])
    assert preferred(store) == {(four[0], other) for other in four[1:]}
    assert store.counts().asked == 3


@pytest.mark.parametrize("wrong", ["three", "twice", "other", "missing", "uuid"])
def test_what_is_no_pick_is_refused(store: Store, four: list[int], wrong: str) -> None:
    ids = {"three": four[:3], "twice": [*four[:3], four[0]], "missing": [*four[:3], 999]}.get(wrong, four)
    with pytest.raises(StoreError):
        picked(store, "no uuid" if wrong == "uuid" else new_uuid(), ids, 999 if wrong == "other" else four[0])
    assert store.counts().asked == 0


def test_texts_of_different_prompts_are_refused(store: Store, make_segments: Callable[..., Segments]) -> None:
    written = [
        Text("a long prompt", "x" * 5),
        Text("a long prompt", "y" * 20),
        Text("a long prompt", ""),
        Text("b", ""),
    ]
    plain = make_segments(4, steps=1)
    texts = Segments(
        ids=plain.ids,
        observations=plain.observations,
        actions=plain.actions,
        true_rewards=plain.true_rewards,
        states=pack_texts(written, 1, 8 + 25),
        policy_steps=plain.policy_steps,
        lengths=plain.lengths,
    )
    ids = store.add(texts).tolist()
    with pytest.raises(StoreError, match="different prompts"):
        picked(store, new_uuid(), ids, ids[0])
    again = store.add(texts).tolist()
    assert picked(store, new_uuid(), [*ids[:3], again[0]], ids[1]), "a prompt that was cut is the same prompt"


def _written(store: Store, prompts: list[str], moment: int) -> list[int]:
    segments = segments_of([Text(prompt, f" {i}") for i, prompt in enumerate(prompts)], 60, moment, width=3)
    found: list[int] = store.add(segments).tolist()
    return found


def test_fours_are_of_one_prompt_and_moment_newest_first_and_gone_once_judged(store: Store) -> None:
    with store.reading() as c:
        assert among(c, 100) == []
    first = _written(store, ["A"] * 4 + ["B"] * 3, 0)
    second = _written(store, ["B"] + ["A"] * 5, 64)
    with store.reading() as c:
        assert among(c, 100) == [second[1:5], first[:4]]
    picked(store, new_uuid(), second[1:5], second[3])
    with store.reading() as c:
        assert among(c, 100) == [first[:4]]
        assert among(c, 5) == []


def test_equal_texts_are_shown_once_among_four(store: Store) -> None:
    """Nobody can say which of two equal texts is better."""
    words = [" a", " a", " b", " c"]
    store.add(segments_of([Text("p", word) for word in words], 60, 0, width=3))
    ids = store.add(segments_of([Text("p", word) for word in [*words, " d"]], 60, 64, width=3)).tolist()
    with store.reading() as c:
        assert among(c, 100) == [[ids[0], *ids[2:]]]


def test_clips_are_no_fours(store: Store, four: list[int]) -> None:
    with store.reading() as c:
        assert among(c, 100) == []
