"""Cutting rollouts into segments."""

import numpy as np
import pytest

from backflip.envs import Collector
from backflip.envs.task import gymnasium_task
from backflip.segments import Array, Rollout, Segments, concatenate, cut_segments, join_rollouts

RNG = np.random.default_rng(0)


def _rollout(steps: int, ends: list[list[int]], starts: list[bool] | None = None, filmed: int = 0) -> Rollout:
    """Observations, actions and rewards that number the steps: 1000 times the environment, plus the time."""
    environments = len(ends)
    number = 1000.0 * np.arange(environments) + np.arange(steps)[:, None]
    over = np.zeros((steps, environments), bool)
    for environment, times in enumerate(ends):
        over[times, environment] = True
    return Rollout(
        observations=number[:, :, None].astype(np.float32),
        actions=number[:, :, None].astype(np.float32),
        true_rewards=number.astype(np.float32),
        states=number[:, :filmed, None].astype(np.float32),
        ends=over,
        starts=np.array(starts or [True] * environments),
        end_observations=np.zeros((over.sum(), 1), np.float32),
        terminated=np.zeros(over.sum(), bool),
        last_observations=np.zeros((environments, 1), np.float32),
    )


def test_a_whole_number_of_segments_uses_every_step_once() -> None:
    segments = cut_segments(_rollout(12, [[], []]), 4, policy_steps=7, rng=RNG)
    assert sorted(segments.true_rewards.reshape(-1)) == [*range(12), *range(1000, 1012)]
    assert (segments.lengths == 4).all()
    assert (segments.policy_steps == 7).all()
    assert (segments.ids == -1).all()


def test_no_segment_crosses_an_end() -> None:
    segments = cut_segments(_rollout(20, [[6, 13]]), 3, policy_steps=0, rng=RNG)
    for first, last in zip(segments.true_rewards[:, 0], segments.true_rewards[:, -1], strict=True):
        assert last - first == 2
        assert sum(first <= end < last for end in (6, 13)) == 0


def test_the_rest_of_a_stretch_is_dropped_on_either_side() -> None:
    begins = {
        float(cut_segments(_rollout(10, [[]]), 4, 0, np.random.default_rng(seed)).true_rewards[0, 0])
        for seed in range(40)
    }
    assert begins == {0.0, 1.0, 2.0}


def test_an_episode_shorter_than_a_segment_is_one_short_segment() -> None:
    segments = cut_segments(_rollout(9, [[2]]), 6, policy_steps=0, rng=RNG)
    assert segments.lengths.tolist() == [3, 6]
    assert segments.true_rewards[0].tolist() == [0, 1, 2, 2, 2, 2]  # padded by its own last step
    assert segments.mask()[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert segments.true_returns()[0] == 0 + 1 + 2


def test_padding_stays_outside_a_return_even_if_it_is_not_a_number() -> None:
    segments = cut_segments(_rollout(3, [[2]]), 5, policy_steps=0, rng=RNG)
    segments.true_rewards[0, 3:] = np.nan
    assert segments.true_returns().tolist() == [3]


def test_a_stretch_cut_short_by_the_rollout_gives_nothing() -> None:
    # Environment 0 began before the rollout and ended at step 1; then it runs on for 3 steps into the next rollout.
    assert len(cut_segments(_rollout(5, [[1]], starts=[False]), 4, policy_steps=0, rng=RNG)) == 0


def test_an_end_at_the_very_last_step_is_an_end() -> None:
    assert cut_segments(_rollout(3, [[2]]), 5, policy_steps=0, rng=RNG).lengths.tolist() == [3]


def test_most_keeps_that_many_and_each_is_as_likely() -> None:
    rollout = _rollout(40, [[]])
    counts = np.zeros(10)
    for seed in range(300):
        kept = cut_segments(rollout, 4, 0, np.random.default_rng(seed), most=3)
        assert len(kept) == 3
        counts[(kept.true_rewards[:, 0] // 4).astype(int)] += 1
    assert counts.min() > 50  # 90 expected, standard deviation 8


def test_only_filmed_environments_are_cut_when_clips_are_wanted() -> None:
    rollout = _rollout(8, [[], [], []], filmed=2)
    segments = cut_segments(rollout, 4, 0, RNG, drawable_only=True)
    assert len(segments) == 4
    assert (segments.states[:, :, 0] == segments.true_rewards).all()
    assert segments.without_states().states.shape == (4, 4, 0)
    assert len(cut_segments(_rollout(8, [[]]), 4, 0, RNG, drawable_only=True)) == 0


def test_states_are_left_out_unless_clips_are_wanted() -> None:
    assert cut_segments(_rollout(8, [[], []], filmed=2), 4, 0, RNG).states.shape == (4, 4, 0)


def test_segments_of_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="segment_steps is 0"):
        cut_segments(_rollout(8, [[]]), 0, 0, RNG)


def test_joining_the_parts_gives_the_whole() -> None:
    whole = cut_segments(_rollout(12, [[]]), 3, 0, RNG)
    parts: list[Segments] = [whole[:1], whole[np.array([1, 2])], whole[np.array([False, False, False, True])]]
    joined = concatenate(parts)
    assert (joined.true_rewards == whole.true_rewards).all()
    assert len(joined) == 4


def test_two_rollouts_that_followed_each_other_joined_are_one_long_rollout() -> None:
    def act(seen: Array) -> Array:
        return np.where(seen[:, 1:2] > 0, 3, -1).astype(np.float32)

    task = gymnasium_task("InvertedPendulum-v5")
    whole = Collector(task, 3, seed=4, filmed=2).collect(act, 60)
    in_parts = Collector(task, 3, seed=4, filmed=2)
    parts = [in_parts.collect(act, steps) for steps in (17, 1, 42)]
    joined = join_rollouts(parts)
    ends = np.nonzero(whole.ends)[0]
    assert ends.min() < 17 < 18 < ends.max()  # in several parts
    assert whole.terminated.any()
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name), err_msg=name)


def test_a_joined_rollout_begins_where_its_first_part_began() -> None:
    first, second = _rollout(4, [[3], []], starts=[True, False]), _rollout(2, [[], [1]], starts=[True, True])
    joined = join_rollouts([first, second])
    assert joined.starts.tolist() == [True, False]
    assert np.argwhere(joined.ends).tolist() == [[3, 0], [5, 1]]
    assert join_rollouts([first]).true_rewards.tolist() == first.true_rewards.tolist()
