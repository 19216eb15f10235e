"""Choices, queries, and D kept up to date from changes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backflip.preferences import Changes, Choice, Comparisons, Query, apply_changes
from backflip.segments import Segments

MakeSegments = Callable[..., Segments]


@pytest.fixture
def comparisons(make_segments: MakeSegments) -> Callable[..., Comparisons]:
    def make(query_ids: list[int], mu: list[float] | None = None) -> Comparisons:
        n = len(query_ids)
        return Comparisons(
            query_ids=np.array(query_ids, np.int64),
            left=make_segments(n, seed=1),
            right=make_segments(n, seed=2),
            mu=np.array([1.0] * n if mu is None else mu, np.float32),
            weight=np.ones(n, np.float32),
        )

    return make


def touching(ids: list[int], stand: Comparisons | None) -> Changes:
    return Changes(np.array(ids, np.int64), stand, last=9)


@pytest.mark.parametrize(
    ("choice", "mu", "sign"),
    [
        (Choice.LEFT, 1.0, -1),
        (Choice.EQUAL, 0.5, 0),
        (Choice.RIGHT, 0.0, 1),
        (Choice.INCOMPARABLE, None, None),
    ],
)
def test_mu_is_the_mass_on_the_left_and_the_sign_points_at_the_chosen_side(
    choice: Choice, mu: float | None, sign: int | None
) -> None:
    assert choice.mu == mu
    assert choice.sign == sign


def test_a_choice_is_its_word() -> None:
    assert [Choice(word) for word in ("left", "equal", "right", "incomparable")] == list(Choice)
    with pytest.raises(ValueError, match="neither"):
        Choice("neither")


def test_disagreement_is_the_variance_of_the_predictions() -> None:
    # Mean 0.5, squared deviations 0.16, 0, 0.16: their mean is 0.32 / 3.
    assert Query(1, 1, 2, (0.1, 0.5, 0.9)).disagreement == pytest.approx(0.32 / 3)
    assert Query(1, 1, 2, (0.7,)).disagreement == 0
    assert Query(1, 1, 2).disagreement == 0


def test_without_changes_nothing_becomes_nothing() -> None:
    assert apply_changes(None, touching([], None)) is None
    assert apply_changes(None, touching([3], None)) is None


def test_first_changes_become_the_data(comparisons: Callable[..., Comparisons]) -> None:
    new = comparisons([1, 2])
    assert apply_changes(None, touching([1, 2], new)) is new


def test_data_that_nothing_touches_stays_the_same_object(comparisons: Callable[..., Comparisons]) -> None:
    data = comparisons([1, 2])
    assert apply_changes(data, touching([], None)) is data
    assert apply_changes(data, touching([7], None)) is data


def test_every_entry_of_a_touched_query_is_replaced_and_the_others_keep_their_places(
    comparisons: Callable[..., Comparisons],
) -> None:
    data = comparisons([4, 5, 4, 6], [1.0, 1.0, 0.0, 0.5])
    after = apply_changes(data, touching([4, 8], comparisons([8, 4], [0.0, 0.5])))
    assert after is not None
    assert after.query_ids.tolist() == [5, 6, 8, 4]
    assert after.mu.tolist() == [1.0, 0.5, 0.0, 0.5]
    np.testing.assert_array_equal(after.left.observations[:2], data.left.observations[[1, 3]])
    np.testing.assert_array_equal(after.right.observations[:2], data.right.observations[[1, 3]])


def test_changes_applied_twice_are_changes_applied_once(comparisons: Callable[..., Comparisons]) -> None:
    changes = touching([2, 3], comparisons([2, 3], [0.0, 0.5]))
    once = apply_changes(comparisons([1, 2]), changes)
    assert once is not None
    twice = apply_changes(once, changes)
    assert twice is not None
    assert twice.query_ids.tolist() == once.query_ids.tolist() == [1, 2, 3]
    assert twice.mu.tolist() == once.mu.tolist()


def test_data_whose_last_answer_was_undone_is_none(comparisons: Callable[..., Comparisons]) -> None:
    assert apply_changes(comparisons([1, 1]), touching([1], None)) is None
    back = apply_changes(comparisons([1]), touching([1], comparisons([1], [0.0])))
    assert back is not None
    assert back.mu.tolist() == [0.0]


def test_without_states_keeps_everything_that_r_hat_sees(make_segments: MakeSegments) -> None:
    sides = make_segments(3, state=5)
    data = Comparisons(np.arange(3), sides, sides, np.ones(3, np.float32), np.ones(3, np.float32))
    light = data.without_states()
    assert light.left.states.shape == light.right.states.shape == (3, 4, 0)
    np.testing.assert_array_equal(light.right.observations, sides.observations)


def test_comparisons_keep_the_names_of_those_who_answered(comparisons: Callable[..., Comparisons]) -> None:
    ana, benedict = (
        replace(comparisons([number]), teachers=np.array([name])) for number, name in ((1, "ana"), (2, "benedict"))
    )
    both = ana.appended(benedict)
    assert both.teachers is not None
    assert both.teachers.tolist() == ["ana", "benedict"]
    after = apply_changes(both, touching([1], ana))
    assert after is not None
    assert after.teachers is not None
    assert (after.query_ids.tolist(), after.teachers.tolist()) == ([2, 1], ["benedict", "ana"])
    assert ana.appended(comparisons([3])).teachers is None
    assert comparisons([3])[np.array([0])].teachers is None
