"""Returns and lengths of episodes, followed over the borders of rollouts."""

import numpy as np

from backflip.envs import Collector
from backflip.envs.episodes import TOGETHER, Episodes, first_episode, first_returns, whole_episodes
from backflip.envs.task import gymnasium_task
from backflip.segments import Array, Rollout


def _rollout(rewards: list[list[float]], ends: list[list[int]], starts: list[bool] | None = None) -> Rollout:
    """A rollout of some environments: each a list of rewards, and the steps at which an episode ended."""
    paid = np.array(rewards, np.float32).T
    over = np.zeros(paid.shape, bool)
    for environment, steps in enumerate(ends):
        over[steps, environment] = True
    return Rollout(
        observations=np.zeros((*paid.shape, 1), np.float32),
        actions=np.zeros((*paid.shape, 1), np.float32),
        true_rewards=paid,
        states=np.zeros((len(paid), 0, 0), np.float32),
        ends=over,
        starts=np.zeros(paid.shape[1], bool) if starts is None else np.array(starts),
        end_observations=np.zeros((int(over.sum()), 1), np.float32),
        terminated=np.zeros(int(over.sum()), bool),
        last_observations=np.zeros((paid.shape[1], 1), np.float32),
    )


def test_episodes_within_a_rollout_and_over_its_borders() -> None:
    episodes = Episodes(2)
    # Environment 0: 1 + 2 ends, 3 + 4 goes on. Environment 1: 10, 20, 30 and 40 go on.
    episodes.add(_rollout([[1, 2, 3, 4], [10, 20, 30, 40]], [[1], []], [True, True]))
    assert episodes.finished == [(3.0, 2)]
    # Environment 0: 3 + 4 + 5 ends after 3 steps, then 6 alone, then 7 goes on; 1: 100 + 50 + 60 + 70 in 7 steps.
    episodes.add(_rollout([[5, 6, 7], [50, 60, 70]], [[0, 1], [2]]))
    assert episodes.finished == [(3.0, 2), (12.0, 3), (6.0, 1), (280.0, 7)]
    episodes.finished.clear()
    episodes.add(_rollout([[1], [1]], [[0], [0]]))
    assert episodes.finished == [(8.0, 2), (1.0, 1)]


def test_an_episode_that_was_broken_off_by_a_reset_is_forgotten() -> None:
    episodes = Episodes(2)
    episodes.add(_rollout([[100, 100], [1, 1]], [[], []], [True, True]))
    episodes.add(_rollout([[1, 2], [3, 4]], [[1], [1]], [True, False]))
    assert episodes.finished == [(3.0, 2), (9.0, 4)]


def test_a_rollout_without_ends_finishes_nothing() -> None:
    episodes = Episodes(1)
    episodes.add(_rollout([[1, 2]], [[]]))
    assert episodes.finished == []


def test_where_there_is_no_true_reward_lengths_are_still_followed() -> None:
    episodes = Episodes(1)
    episodes.add(_rollout([[np.nan, np.nan]], [[1]], [True]))
    ((true_return, steps),) = episodes.finished
    assert np.isnan(true_return)
    assert steps == 2


def test_a_pole_that_falls_returns_as_much_as_it_stood() -> None:
    collector = Collector(gymnasium_task("CartPole-v1"), 3, seed=0)
    episodes = Episodes(3)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(10):
        rollout = collector.collect(lambda seen: rng.integers(2, size=len(seen)), 17)
        episodes.add(rollout)
        ends += int(rollout.ends.sum())
    assert len(episodes.finished) == ends > 5
    assert all(true_return == steps >= 8 for true_return, steps in episodes.finished)


def test_the_first_episode_of_each_environment_counts() -> None:
    # Environment 0 ends after 1 + 2, and again; 1 with its last step; 2 not at all.
    rollout = _rollout([[1, 2, 4, 8], [10, 20, 30, 40], [5, 5, 5, 5]], [[1, 2], [3], []], [True] * 3)
    assert [first_episode(rollout, environment) for environment in range(3)] == [2, 4, 4]
    assert first_returns(rollout) == [3, 100, 20]


def _lean(seen: Array) -> Array:
    """Push towards where the pole leans."""
    return (seen[:, 2] > 0).astype(np.int64)


def test_whole_episodes_are_whole_and_each_begins_from_its_own_seed() -> None:
    task = gymnasium_task("CartPole-v1")
    played = whole_episodes(task, _lean, 12, steps=150, seed=40)
    assert [rollout.ends.shape for rollout in played] == [(150, 10), (150, 2)]
    assert TOGETHER == 10
    returns = [value for rollout in played for value in first_returns(rollout)]
    assert len(set(returns)) > 5
    for i in (0, 9, 10, 11):
        alone = Collector(task, 1, seed=40 + i).collect(_lean, 150)
        assert first_returns(alone)[0] == returns[i] == first_episode(alone, 0)


def test_an_episode_that_does_not_end_is_cut() -> None:
    (rollout,) = whole_episodes(gymnasium_task("CartPole-v1"), _lean, 2, steps=5, seed=0)
    assert first_returns(rollout) == [5, 5]


def test_no_episode_is_none() -> None:
    assert whole_episodes(gymnasium_task("CartPole-v1"), _lean, 0, steps=5, seed=0) == []
