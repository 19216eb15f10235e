"""How new a state is: known answers for states on a line."""

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.policies.novelty import NEIGHBOUR, state_entropy


def _line(*places: float) -> Tensor:
    return torch.tensor(places, dtype=torch.float32)[:, None]


def _drawn(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_novelty_by_hand() -> None:
    # Second nearest of 0, 1, 3 and 7, each its own nearest: at 1, 1, 2 and 4. Their logs are 0, 0, 1 and 2 times
    # log 2; mean 3/4, deviation √((9/16 + 9/16 + 1/16 + 25/16)/3) = √(11/12) = 0.95743 in these units.
    states = _line(0, 1, 3, 7)
    novelty = state_entropy(states, states, neighbour=2)
    np.testing.assert_allclose(novelty[:, 0], np.array([-0.75, -0.75, 0.25, 1.25]) / (11 / 12) ** 0.5, atol=1e-4)


def test_states_are_compared_with_others_and_not_with_the_batch() -> None:
    # Nearest in {0, 8}: 1, 2 and 4 away, whose logs 0, 1 and 2 are normalised to -1, 0 and 1.
    np.testing.assert_allclose(state_entropy(_line(1, 10, 4), _line(0, 8), neighbour=1)[:, 0], [-1, 0, 1], atol=1e-4)


def test_the_fifth_nearest_counts() -> None:
    assert NEIGHBOUR == 5
    # From 0, 20 and 10 the fifth is 5, 18 and 9 away; the first 1, 1 and 5.
    states, among = _line(0, 20, 10), _line(1, 2, 3, 4, 5, 21)
    for neighbour, distances in ((NEIGHBOUR, [5, 18, 9]), (1, [1, 1, 5])):
        logs = np.log(distances)
        wanted = (logs - logs.mean()) / logs.std(ddof=1)
        np.testing.assert_allclose(state_entropy(states, among, neighbour)[:, 0], wanted, atol=1e-4)
    np.testing.assert_array_equal(state_entropy(states, among), state_entropy(states, among, NEIGHBOUR))


def test_a_farther_state_is_newer() -> None:
    novelty = state_entropy(_line(0, 5, 10, 20, 40), _drawn(200, 1))[:, 0]
    assert (novelty.diff() > 0).all()


def test_novelty_has_mean_0_and_deviation_1() -> None:
    novelty = state_entropy(_drawn(100, 4), _drawn(300, 4, 1))
    assert float(novelty.mean()) == pytest.approx(0, abs=1e-5)
    assert float(novelty.std()) == pytest.approx(1, abs=1e-4)


def test_units_do_not_matter() -> None:
    states, among = _drawn(50, 3), _drawn(200, 3, 1)
    units, zeros = torch.tensor([1000.0, 1.0, 0.1]), torch.tensor([7.0, -3.0, 0.0])
    wanted = state_entropy(states, among)
    np.testing.assert_allclose(state_entropy(states * units + zeros, among * units + zeros), wanted, atol=1e-2)
    # A coordinate is not counted by its numbers: with one of 1000 times the size, the others would not be seen.
    assert not np.allclose(state_entropy(states[:, :1], among[:, :1]), wanted, atol=0.5)


def test_what_never_changes_is_no_novelty() -> None:
    states, among = _drawn(50, 3), _drawn(200, 3, 1)
    wider, among_wider = (torch.cat([x, torch.full((len(x), 1), 4.0)], 1) for x in (states, among))
    np.testing.assert_allclose(state_entropy(wider, among_wider), state_entropy(states, among), atol=1e-3)


def test_where_all_states_are_the_same_none_is_newer() -> None:
    same = torch.full((30, 2), 3.0)
    novelty = state_entropy(same[:8], same)
    assert novelty.isfinite().all()
    assert (novelty == novelty[0]).all()


def test_fewer_states_than_neighbours_are_enough() -> None:
    # The farthest of two: 3 away from 1, 6 from 4, 12 from 10 of {-2, 0}; logs one log 2 apart give -1, 0 and 1.
    novelty = state_entropy(_line(1, 4, 10), _line(-2, 0))
    np.testing.assert_allclose(novelty[:, 0], [-1, 0, 1], atol=1e-4)
