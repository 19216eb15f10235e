"""Segments σ: stacked stretches of behaviour, and how they are cut from rollouts. §2.1"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Rollout:
    """What a policy did in its environments over some consecutive steps.

    `ends` marks the last step of an episode, whatever ended it. `states` holds, for the first f environments only
    (those that can be drawn), what is needed to draw each step: a simulator's state or a frame.
    """

    observations: Shaped[np.ndarray, "t e *obs"]
    actions: Shaped[np.ndarray, "t e *act"]
    true_rewards: Float32[np.ndarray, "t e"]
    states: Shaped[np.ndarray, "t f *s"]
    ends: Bool[np.ndarray, "t e"]
    starts: Bool[np.ndarray, " e"]
    """Which environments stood at the beginning of an episode when the rollout began."""
    end_observations: Shaped[np.ndarray, "j *obs"]
    """What was seen after each of the j steps marked in `ends`, in the order of `numpy.nonzero(ends)`."""
    terminated: Bool[np.ndarray, " j"]
    """Which of these ends the environment made itself (a fall, a goal) rather than a time limit."""
    last_observations: Shaped[np.ndarray, "e *obs"]
    """What each environment shows now, after the last step."""


def join_rollouts(parts: list[Rollout]) -> Rollout:
    """Rollouts that followed each other in the same environments, as one."""
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("observations", "actions", "true_rewards", "states", "ends", "end_observations", "terminated")
    }
    return Rollout(**joined, starts=parts[0].starts, last_observations=parts[-1].last_observations)


@dataclass(frozen=True)
class Segments:
    """n segments of k steps each, as stacked arrays; the unit that people compare (§2.1).

    A segment never crosses the end of an episode. Where whole episodes are shorter than k, a segment is one such
    episode: only its first `lengths` steps count, what follows is padding.
    """

    ids: Int64[np.ndarray, " n"]
    """Numbers in the store; -1 for segments that are not stored (yet)."""
    observations: Shaped[np.ndarray, "n k *obs"]
    actions: Shaped[np.ndarray, "n k *act"]
    true_rewards: Float32[np.ndarray, "n k"]
    """The environment's own reward, NaN where it has none. Only oracles and evaluation may read it."""
    states: Shaped[np.ndarray, "n k *s"]
    """What is needed to draw each step; of size 0 where nothing was recorded or it was not asked for."""
    policy_steps: Int64[np.ndarray, " n"]
    """Environment steps that the policy had taken when it produced the segment."""
    lengths: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Array | slice) -> "Segments":
        """The segments at some positions, as an array of positions, a mask or a slice."""
        return Segments(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def mask(self) -> Float32[np.ndarray, "n k"]:
        """1 for the steps that count, 0 for padding."""
        steps = np.arange(self.true_rewards.shape[1])
        return (steps < self.lengths[:, None]).astype(np.float32)

    def true_returns(self) -> Float32[np.ndarray, " n"]:
        """The sum of the true reward over each segment, without discount (§2.2.3, footnote 3)."""
        returns: Array = np.where(self.mask() > 0, self.true_rewards, 0).sum(axis=1)
        return returns.astype(np.float32)

    def without_states(self) -> "Segments":
        """The same segments, less what only drawing needs."""
        return replace(self, states=np.zeros((len(self), self.states.shape[1], 0), np.float32))


def concatenate(parts: list[Segments]) -> Segments:
    """All segments of the parts, in order; the parts must agree in everything but their number."""
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Segments)}
    return Segments(**columns)


def cut_segments(
    rollout: Rollout,
    segment_steps: int,
    policy_steps: int,
    rng: np.random.Generator,
    most: int | None = None,
    drawable_only: bool = False,
) -> Segments:
    """Cut a rollout into segments of `segment_steps` consecutive steps of one environment, none across an episode end.

    A stretch that is longer than a whole number of segments loses steps at a random side, so that no phase of an
    episode is favoured. An episode that is itself shorter than a segment gives one short segment; a stretch that the
    rollout's border cut short gives none.

    Args:
        most: keep at most so many, drawn uniformly.
        drawable_only: cut only the environments whose states were recorded.

    Raises:
        ValueError: `segment_steps` is below 1.
    """
    if segment_steps < 1:
        raise ValueError(f"segment_steps is {segment_steps}; it must be at least 1")
    steps, environments = rollout.ends.shape
    filmed = rollout.states.shape[1]
    windows: list[tuple[int, int, int]] = []  # (environment, first step, length)
    for environment in range(filmed if drawable_only else environments):
        borders = np.flatnonzero(rollout.ends[:, environment]) + 1
        first, at_start = 0, bool(rollout.starts[environment])
        for border in [*borders.tolist(), steps]:
            length = border - first
            whole_episode = at_start and (border in borders)
            if length >= segment_steps:
                slack = int(rng.integers(length % segment_steps + 1))
                windows += [
                    (environment, first + slack + i * segment_steps, segment_steps)
                    for i in range(length // segment_steps)
                ]
            elif length and whole_episode:
                windows.append((environment, first, length))
            first, at_start = border, True
    if most is not None and len(windows) > most:
        windows = [windows[i] for i in np.sort(rng.choice(len(windows), most, replace=False))]
    return _gather(rollout, windows, segment_steps, policy_steps, with_states=drawable_only)


def _gather(
    rollout: Rollout, windows: list[tuple[int, int, int]], segment_steps: int, policy_steps: int, with_states: bool
) -> Segments:
    """Stack the windows; a short one is padded by its own last step, which `lengths` takes out of every sum."""
    n = len(windows)
    environment, first, length = np.array(windows, np.int64).reshape(n, 3).T
    step = first[:, None] + np.minimum(np.arange(segment_steps), length[:, None] - 1)
    env = environment[:, None]
    states = rollout.states[step, env] if with_states else np.zeros((n, segment_steps, 0), np.float32)
    return Segments(
        ids=np.full(n, -1, np.int64),
        observations=rollout.observations[step, env],
        actions=rollout.actions[step, env],
        true_rewards=rollout.true_rewards[step, env],
        states=states,
        policy_steps=np.full(n, policy_steps, np.int64),
        lengths=length.copy(),
    )
