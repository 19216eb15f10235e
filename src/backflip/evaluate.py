"""How good a run's policy is: episodes without exploration, by the true reward where there is one, and by r̂."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backflip.acting import load_into, make_policy
from backflip.envs import Collector, find_task
from backflip.envs.clips import draw_segment
from backflip.envs.episodes import LONGEST_EPISODE, first_behaviours, first_episode, first_returns, whole_episodes
from backflip.envs.facts import facts
from backflip.files import whole_file, writing
from backflip.loop import one_thread
from backflip.policies import Policy
from backflip.reward import RewardEnsemble
from backflip.rundir import RunDir, RunError
from backflip.settings import settings_of

PICTURES = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG"}


@dataclass(frozen=True)
class Evaluation:
    """What some episodes came to."""

    task: str
    policy_steps: int
    true_returns: list[float] | None
    """Of each episode; None where the task has no reward."""
    predicted_returns: list[float] | None
    """The same by r̂; None before there is one."""
    behaviour_name: str | None
    """What tells how well it was learned, where no reward does; None where the task has nothing of the kind."""
    behaviour: list[float] | None
    """The same in numbers, of each episode."""
    episode_steps: list[int]


def summary(found: Evaluation) -> dict[str, list[float]]:
    """Mean, deviation, lowest and highest of everything that was measured, by name."""
    measured: dict[str, list[float] | list[int] | None] = {
        "true return": found.true_returns,
        "r̂ return": found.predicted_returns,
        found.behaviour_name or "": found.behaviour,
        "steps": found.episode_steps,
    }
    return {
        name: [float(of(values)) for of in (np.mean, np.std, np.min, np.max)]
        for name, values in measured.items()
        if values is not None
    }


def load_policy(run: RunDir) -> Policy:
    """A run's newest policy, in fresh environments.

    Raises:
        RunError: there is no checkpoint of it yet, or none that fits the run's settings.
    """
    settings = settings_of(run)
    checkpoint = run.newest("act")
    if checkpoint is None:
        raise RunError(f"{run.path} has no checkpoint of a policy yet; let it train a little longer")
    policy = make_policy(settings, 1)
    load_into(policy, checkpoint, run)
    return policy


def load_ensemble(run: RunDir) -> RewardEnsemble | None:
    """A run's newest r̂; None before there is one."""
    published = run.newest("reward")
    return None if published is None else RewardEnsemble.load(published.path / "reward.safetensors")


def evaluate(run: RunDir, episodes: int = 10, seed: int = 10_000) -> Evaluation:
    """Let the newest policy act for some whole episodes without exploration.

    Args:
        seed: what the environments begin from; training uses others.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    one_thread()
    policy, ensemble = load_policy(run), load_ensemble(run)
    policy.collector.close()
    task = find_task(run.settings["task"])
    steps = facts(task).episode_steps or LONGEST_EPISODE
    true_returns: list[float] = []
    predicted: list[float] = []
    shown: list[float] = []
    lengths: list[int] = []
    for rollout in whole_episodes(task, policy.choose, episodes, steps, seed):
        paid = None if ensemble is None else ensemble.reward(rollout.observations, rollout.actions)
        true_returns += first_returns(rollout)
        shown += first_behaviours(task, rollout)
        for environment in range(rollout.ends.shape[1]):
            lengths.append(first_episode(rollout, environment))
            if paid is not None:
                predicted.append(float(paid[: lengths[-1], environment].sum()))
    return Evaluation(
        task=task.name,
        policy_steps=policy.steps,
        true_returns=true_returns if task.has_true_reward else None,
        predicted_returns=predicted if ensemble is not None else None,
        behaviour_name=task.behaviour.name if task.behaviour else None,
        behaviour=shown if task.behaviour else None,
        episode_steps=lengths,
    )


def film(run: RunDir, file: Path, seed: int = 10_000, seconds: float = 10.0) -> None:
    """Write the beginning of one episode of the newest policy as a moving picture: .webp, .gif or .png.

    Raises:
        ValueError: another kind of file is asked for.
        CannotBeShown: the environment draws nothing.
        CannotWrite: the disk is full, or not ours to write on.
    """
    if file.suffix not in PICTURES:
        raise ValueError(f"{file.name} cannot be written; moving pictures are {', '.join(PICTURES)}")
    one_thread()
    policy = load_policy(run)
    policy.collector.close()
    task = find_task(run.settings["task"])
    collector = Collector(task, 1, seed, filmed=1)
    steps = max(1, round(seconds / 1.5 * facts(task).segment_steps))
    rollout = collector.collect(policy.choose, min(steps, facts(task).episode_steps or LONGEST_EPISODE))
    collector.close()
    clip = draw_segment(task, rollout.states[:, 0], first_episode(rollout, 0))
    pictures = [Image.fromarray(frame) for frame in clip.frames]
    with writing(file), whole_file(file, durable=False) as opened:
        pictures[0].save(
            opened,
            PICTURES[file.suffix],
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / clip.fps),
            loop=0,
        )


__all__ = ["PICTURES", "Evaluation", "evaluate", "film", "load_ensemble", "load_policy", "summary"]
