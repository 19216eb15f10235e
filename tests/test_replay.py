"""What an off-policy policy remembers: every transition as it was, the oldest forgotten, all of it paid anew."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backflip.policies import replay
from backflip.policies.replay import Replay
from backflip.segments import Array, Rollout


def _rollout(steps: int, ends: list[list[int]], first: int = 0, terminated: list[bool] | None = None) -> Rollout:
    """Numbered observations: 1000 times the environment, plus the time; after an end, half a step more is seen."""
    environments = len(ends)
    number = (1000.0 * np.arange(environments) + first + np.arange(steps + 1)[:, None]).astype(np.float32)
    over = np.zeros((steps, environments), bool)
    for environment, times in enumerate(ends):
        over[times, environment] = True
    return Rollout(
        observations=np.stack([number[:-1], -number[:-1]], -1),
        actions=number[:-1, :, None] / 10,
        true_rewards=np.full((steps, environments), np.nan, np.float32),
        states=np.zeros((steps, 0, 0), np.float32),
        ends=over,
        starts=np.ones(environments, bool),
        end_observations=np.stack([number[:-1][over] + 0.5, -number[:-1][over] - 0.5], -1),
        terminated=np.array(terminated or [False] * int(over.sum()), bool),
        last_observations=np.stack([number[-1], -number[-1]], -1),
    )


def _add(memory: Replay, rollout: Rollout) -> None:
    """Remember a rollout, paid 1000 more than its first number."""
    memory.add(rollout, rollout.actions, rollout.observations[..., 0] + 1000)


def _remembered(memory: Replay) -> list[Array]:
    """What was seen, what was done, what was seen next, reward, going on."""
    known = memory.sample(np.arange(len(memory)))
    done = known.seen_and_done[:, known.seen.shape[1] :]
    return [part.numpy() for part in (known.seen, done, known.following, known.rewards, known.going_on)]


def _filled(capacity: int, steps: int) -> Replay:
    memory = Replay(capacity, 2, 1)
    _add(memory, _rollout(steps, [[]]))
    return memory


def _sum(seen: Array, done: Array) -> Array:
    """A reward that a test can recompute: what was seen and ten times what was done."""
    paid: Array = seen[:, 0] + 10 * done[:, 0]
    return paid


def test_what_was_added_comes_back() -> None:
    memory = Replay(100, 2, 1)
    assert len(memory) == 0
    _add(memory, _rollout(3, [[], []]))
    assert len(memory) == memory.added == 6
    seen, done, following, rewards, going_on = _remembered(memory)
    assert seen[:, 0].tolist() == [0, 1000, 1, 1001, 2, 1002]  # in the order in which it happened
    assert (seen[:, 1] == -seen[:, 0]).all()
    np.testing.assert_allclose(done[:, 0], seen[:, 0] / 10)
    assert following[:, 0].tolist() == [1, 1001, 2, 1002, 3, 1003]  # the last ones from what is shown now
    assert (following[:, 1] == -following[:, 0]).all()
    assert rewards[:, 0].tolist() == (seen[:, 0] + 1000).tolist()
    assert (going_on == 1).all()
    assert memory.observations(np.array([5, 0])).tolist() == [[1002, -1002], [0, 0]]


def test_actions_are_remembered_in_the_units_that_are_given() -> None:
    memory, rollout = Replay(100, 2, 1), _rollout(3, [[], []])
    memory.add(rollout, -2 * rollout.actions, np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(_remembered(memory)[1][:, 0], [0, -200, -0.2, -200.2, -0.4, -200.4], rtol=1e-6)


def test_an_episodes_last_step_leads_to_its_own_last_observation_and_not_to_the_next_episode() -> None:
    memory = Replay(100, 2, 1)
    # Environment 0 ends after steps 0 and 2, environment 1 after step 0; in the order of time, then environment:
    # a fall, a time limit, a time limit.
    _add(memory, _rollout(3, [[0, 2], [0]], terminated=[True, False, False]))
    _, _, following, _, going_on = _remembered(memory)
    assert following[:, 0].tolist() == [0.5, 1000.5, 2, 1002, 2.5, 1003]
    assert following[:, 1].tolist() == [-0.5, -1000.5, -2, -1002, -2.5, -1003]
    assert going_on[:, 0].tolist() == [0, 1, 1, 1, 1, 1]  # only a fall ends anything


def test_adding_leaves_the_rollout_as_it_was() -> None:
    rollout = _rollout(3, [[1]])
    before = rollout.observations.copy()
    _add(Replay(100, 2, 1), rollout)
    np.testing.assert_array_equal(rollout.observations, before)


def test_where_it_is_full_the_oldest_are_forgotten() -> None:
    memory = Replay(10, 2, 1)
    for first in range(0, 24, 4):
        _add(memory, _rollout(4, [[]], first))
        assert len(memory) == min(first + 4, 10)
        newest = range(max(0, first + 4 - 10), first + 4)
        seen, _, following, rewards, _ = _remembered(memory)
        assert sorted(seen[:, 0].tolist()) == list(newest)
        assert (following[:, 0] == seen[:, 0] + 1).all()
        assert (rewards[:, 0] == seen[:, 0] + 1000).all()


@pytest.mark.parametrize("before", [0, 3])
def test_of_a_rollout_that_is_larger_than_the_memory_the_newest_steps_are_kept(before: int) -> None:
    memory = Replay(5, 2, 1)
    if before:
        _add(memory, _rollout(before, [[]], 100))
    _add(memory, _rollout(12, [[]]))
    assert len(memory) == 5
    assert sorted(_remembered(memory)[0][:, 0].tolist()) == [7, 8, 9, 10, 11]
    _add(memory, _rollout(2, [[]], 50))
    assert sorted(_remembered(memory)[0][:, 0].tolist()) == [9, 10, 11, 50, 51]


@pytest.mark.parametrize("at_once", [1, 7, 8, 24, 1000])
def test_everything_is_paid_anew_in_one_call_or_in_many(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PAID_AT_ONCE", at_once)
    memory, sizes = Replay(100, 2, 1), []
    _add(memory, _rollout(8, [[2], [], [7]]))
    before = _remembered(memory)

    def reward(seen: Array, done: Array) -> Array:
        sizes.append(len(seen))
        return _sum(seen, done)

    memory.repay(reward)
    seen, done, following, rewards, going_on = _remembered(memory)
    np.testing.assert_allclose(rewards[:, 0], 2 * seen[:, 0], rtol=1e-6)
    assert sum(sizes) == 24
    assert max(sizes) == min(at_once, 24)
    for old, new in zip(before[:3] + before[4:], [seen, done, following, going_on], strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_is_not_there_is_not_paid() -> None:
    memory, seen = _filled(10, 4), []

    def reward(observations: Array, actions: Array) -> Array:
        seen.extend(observations[:, 0].tolist())
        return _sum(observations, actions)

    Replay(10, 2, 1).repay(reward)
    assert seen == []
    memory.repay(reward)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused(bad: float) -> None:
    def reward(seen: Array, done: Array) -> Array:
        return np.where(seen[:, 0] == 3, bad, 1).astype(np.float32)

    with pytest.raises(FloatingPointError, match="the reward of a remembered step is not finite"):
        _filled(10, 4).repay(reward)
    _filled(10, 3).repay(reward)


@pytest.mark.parametrize("steps", [0, 4, 23])
def test_a_memory_comes_back_and_goes_on_as_if_uninterrupted(steps: int) -> None:
    through, resumed = Replay(10, 2, 1), Replay(10, 2, 1)
    for first in range(steps):
        _add(through, _rollout(1, [[]], first))
    resumed.restore({name: array.copy() for name, array in through.arrays().items()})
    assert len(resumed) == len(through) == min(steps, 10)
    for memory in (through, resumed):
        _add(memory, _rollout(3, [[1]], 90))
    for one, other in zip(_remembered(through), _remembered(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_memory_of_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}; a replay holds at least one transition"):
        Replay(capacity, 2, 1)


@pytest.mark.parametrize("change", [lambda o: o.astype(np.uint8), lambda o: o.reshape(*o.shape[:-1], 2, 1)])
def test_images_are_remembered_flat_and_as_floats(change: Callable[[Array], Array]) -> None:
    rollout = _rollout(3, [[1]])
    positive = {
        name: change(np.abs(getattr(rollout, name)))
        for name in ("observations", "end_observations", "last_observations")
    }
    memory = Replay(10, 2, 1)
    memory.add(replace(rollout, **positive), rollout.actions, np.zeros((3, 1), np.float32))
    seen, _, following, *_ = _remembered(memory)
    assert seen.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert following.tolist()[0] == [1, 1]
