"""Pairs within prompts, and the text tasks' stand-ins for taste."""

from typing import Any, get_args

import numpy as np
import pytest

from backflip.lm.corpus import openings, reviews
from backflip.lm.tasks import TEXT_TASKS, sentiment, vividness
from backflip.queries import AskConfig, Selector, pairs_within, select_queries
from backflip.reward import Inputs, RewardConfig, RewardEnsemble
from backflip.texts import Text

GROUPS = np.array([4, 2, 4, 2, 4, 7, 2, 2], np.int64)
"""Three of group 4, four of group 2, one of group 7: 3 + 6 pairs."""


def test_pairs_within_are_all_pairs_of_a_group_once() -> None:
    pairs = pairs_within(np.random.default_rng(0), GROUPS, 100)
    assert len(pairs) == 9
    assert (GROUPS[pairs[:, 0]] == GROUPS[pairs[:, 1]]).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 9
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_pairs_within_are_no_more_than_asked_for_and_on_random_sides() -> None:
    assert pairs_within(np.random.default_rng(0), GROUPS, 4).shape == (4, 2)
    assert pairs_within(np.random.default_rng(0), np.arange(5), 4).shape == (0, 2)
    assert pairs_within(np.random.default_rng(0), np.zeros(0, np.int64), 4).shape == (0, 2)
    pairs = pairs_within(np.random.default_rng(0), np.repeat(np.arange(300), 2), 1_000)
    assert 100 < int((pairs[:, 0] > pairs[:, 1]).sum()) < 200


@pytest.mark.parametrize("selector", get_args(Selector))
@pytest.mark.parametrize("with_reward", [False, True])
def test_no_prompt_is_asked_about_twice_as_long_as_there_are_others(
    make_segments: Any, selector: Selector, with_reward: bool
) -> None:
    groups = np.repeat(np.arange(10), 4)[np.random.default_rng(0).permutation(40)]
    segments = make_segments(40, steps=1, observation=(6,), action=(0,))
    ensemble = RewardEnsemble(Inputs((6,), 0, False), RewardConfig(layers=1)) if with_reward else None
    config = AskConfig(selector=selector, oversample=30)
    for count, different in ((6, 6), (10, 10), (13, 10)):
        pairs, predicted, _ = select_queries(
            np.random.default_rng(1), ensemble, segments, count, config, groups.astype(np.int64)
        )
        assert pairs.shape == (count, 2)
        assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
        assert len(set(groups[pairs[:, 0]].tolist())) == different
        assert (predicted is None) == (ensemble is None)


def test_the_stand_in_for_kindness_reads_the_completion_alone() -> None:
    found = sentiment([Text("awful", "I loved it."), Text("lovely", "I hated it."), Text("", "")])
    assert found[0] > 0.5
    assert found[1] < -0.5
    assert found[2] == 0


def test_vividness_by_hand() -> None:
    # Two of ten words; one of two, which count as eight; none.
    texts = ["the red sky and the cold sea of our youth", "dark room", ""]
    assert vividness([Text("red", text) for text in texts]) == pytest.approx([2.0, 1.25, 0.0])


def test_prompts_are_different_and_the_same_every_time() -> None:
    for name in ("sentiment", "descriptive"):
        prompts = TEXT_TASKS[name].prompts()
        assert len(prompts) == len(set(prompts)) == 256
        assert prompts == TEXT_TASKS[name].prompts()
    assert openings(3) == openings(5)[:3]
    assert reviews(2, seed=1) == reviews(2, seed=1) != reviews(2, seed=2)
