"""Acting: the policy in its environments, paid by the newest r̂; its behaviour becomes segments. §2.2.1"""

import json
import time
from dataclasses import replace

import numpy as np

from backflip.envs import Collector, find_task
from backflip.envs.collect import has_simulator_state
from backflip.envs.episodes import LONGEST_EPISODE, Episodes, first_behaviours, first_returns, whole_episodes
from backflip.envs.facts import facts
from backflip.files import write_whole
from backflip.policies import Policy
from backflip.policies.ppo import PPO
from backflip.policies.sac import SAC
from backflip.published import RECORD_STEPS, Published
from backflip.rundir import STEPS, Checkpoint, RunDir, RunError
from backflip.segments import Array, Rollout, cut_segments
from backflip.settings import Settings, reset_seed
from backflip.store import Store

FILMED = 4
"""Environments whose behaviour can be drawn for people."""
FILM_SECONDS = 2.0
"""Where every step has to be filmed as it happens, which is slow, only one rollout in so many seconds is."""


class Act:
    """The policy in its environments: it is paid by the newest r̂, and its behaviour becomes segments. §2.2.1"""

    def __init__(self, run: RunDir, store: Store, settings: Settings) -> None:
        self.run, self.store, self.settings = run, store, settings
        self.facts = facts(find_task(settings.task))
        self.segment_steps = settings.segment_steps or self.facts.segment_steps
        self.policy = make_policy(settings, self.segment_steps)
        collector = self.policy.collector
        self.episodes = Episodes(collector.environments)
        self.reward = Published(run)
        self._recorded = (0, time.perf_counter())
        self._pace = 0.0
        self._films_as_it_happens = settings.shows_clips and not has_simulator_state(collector.task)
        self._filmed_at = -FILM_SECONDS

    @property
    def done(self) -> bool:
        """Whether the budget of steps is used up."""
        return self.policy.steps >= self.settings.steps

    def step(self, wait: bool = False) -> bool:
        """One rollout: paid by r̂ and learned from, or before there is an r̂ merely shown. False if there was none.

        Args:
            wait: once there is enough to ask about, rather wait for the first r̂ than use up steps.
        """
        newer = self.reward.refresh()
        if self.reward.ensemble is None:
            if wait and self._has_shown_enough():
                self.tell("waiting for the first answers")
                return False
            rollout = self.policy.explore()
        else:
            if newer:
                self.policy.repay(self.reward.ensemble.reward)
            self._film_now_and_then()
            rollout = self.policy.train(self._pay)
        self._show(rollout)
        self._measure(rollout)
        self._evaluate_now_and_then(rollout.ends.size)
        return True

    def _has_shown_enough(self) -> bool:
        return self.settings.has_shown_enough(self.store.counts().segments, self.policy.steps)

    def _film_now_and_then(self) -> None:
        if self._films_as_it_happens:
            due = time.monotonic() - self._filmed_at >= FILM_SECONDS
            self.policy.collector.filmed = FILMED if due else 0
            self._filmed_at = time.monotonic() if due else self._filmed_at

    def _pay(self, rollout: Rollout) -> Array:
        """r̂ of every step of a rollout, in one call; the only reward that the policy ever sees."""
        assert self.reward.ensemble is not None
        return self.reward.ensemble.reward(rollout.observations, rollout.actions)

    def _show(self, rollout: Rollout) -> None:
        segments = cut_segments(
            rollout,
            self.segment_steps,
            self.policy.steps,
            np.random.default_rng([self.settings.seed, self.policy.iteration]),
            most=None if self.reward.ensemble is None else self.settings.segments_per_rollout,
            drawable_only=self.settings.needs_states,
        )
        self.store.add(segments, self.settings.keep_segments)

    def _measure(self, rollout: Rollout) -> None:
        self.episodes.add(rollout)
        steps, (steps_before, time_before) = self.policy.steps, self._recorded
        if steps - steps_before < RECORD_STEPS and not self.done:
            self.tell("exploring" if self.reward.ensemble is None else "training")
            return
        now = time.perf_counter()
        self._recorded = (steps, now)
        self._pace = (steps - steps_before) / (now - time_before)
        values = {"act/steps_per_second": self._pace, **self.policy.report()}
        if self.reward.ensemble is not None:
            length = self.facts.episode_steps or self.segment_steps
            values["act/predicted_return"] = (float(self._pay(rollout).mean()) - self.reward.ensemble.baseline) * length
            values["act/reward_version"] = float(self.reward.version)
        self.run.record(steps, values | self._finished())
        self.tell("exploring" if self.reward.ensemble is None else "training")

    def _finished(self) -> dict[str, float]:
        """What there is to say of the episodes that ended since this was last asked."""
        if not self.episodes.finished:
            return {}
        returns, lengths = np.array(self.episodes.finished).T
        self.episodes.finished.clear()
        values = {"act/episode_steps": float(lengths.mean())}
        if self.policy.collector.task.has_true_reward:
            values["act/true_return"] = float(returns.mean())
        return values

    def _evaluate_now_and_then(self, taken: int) -> None:
        """Whole episodes without exploration, for the record."""
        every, steps = self.settings.evaluate_steps, self.policy.steps
        if every is None or steps // every == (steps - taken) // every:
            return
        length = self.facts.episode_steps or LONGEST_EPISODE
        seed = reset_seed(self.settings.seed, -1 - steps // every)
        task = find_task(self.settings.task)
        played = whole_episodes(task, self.policy.choose, self.settings.evaluate_episodes, length, seed)
        values = {}
        if task.has_true_reward:
            values["act/evaluation"] = float(np.mean([value for part in played for value in first_returns(part)]))
        if task.behaviour is not None:
            shown = [value for part in played for value in first_behaviours(task, part)]
            values["act/behaviour"] = float(np.mean(shown))
        self.run.record(steps, values)

    def tell(self, state: str) -> None:
        """Let everybody know how far the policy is."""
        self.run.tell(
            "act",
            state=state,
            steps=self.policy.steps,
            total_steps=self.settings.steps,
            steps_per_second=self._pace,
            reward_version=self.reward.version,
        )

    def save(self, number: int) -> None:
        """A checkpoint; the environments begin anew, as they will after loading it."""
        self.run.record(self.policy.steps, self._finished())
        with self.run.publishing("act", number) as directory:
            self.policy.save(directory)
            write_whole(directory / STEPS, json.dumps({"steps": self.policy.steps}).encode())
        # As after loading it: r̂ is read again, and pays what is remembered in the same calls.
        self.reward.read_again()
        self._begin_episodes()

    def load(self, exactly: int | None = None) -> None:
        """Go on from the newest checkpoint, or from that of a number, if there is one."""
        checkpoint = self.run.newest("act", exactly)
        if checkpoint is not None:
            load_into(self.policy, checkpoint, self.run)
            self._begin_episodes()
            self._recorded = (self.policy.steps, time.perf_counter())

    def _begin_episodes(self) -> None:
        self.policy.collector.reset(reset_seed(self.settings.seed, self.policy.iteration))
        self.episodes = Episodes(self.policy.collector.environments)


def load_into(policy: Policy, checkpoint: Checkpoint, run: RunDir) -> None:
    """Let a policy go on from a run's checkpoint.

    Raises:
        DamagedFile: it cannot be read.
        RunError: it is another kind of policy than the run's settings say.
    """
    try:
        policy.load(checkpoint.path)
    except (KeyError, RuntimeError) as error:
        raise RunError(
            f"the policy in {checkpoint.path} does not fit the settings in {run.path / 'run.json'}: they were changed, "
            "or another version of backflip wrote it; restore a copy, or use the version that run.json names"
        ) from error


def make_policy(settings: Settings, segment_steps: int) -> Policy:
    """An untrained policy in fresh environments; its rollouts are at least as long as a segment."""
    task = find_task(settings.task)
    environments = settings.ppo.environments if settings.policy == "ppo" else settings.sac.environments
    filmed = (FILMED if settings.shows_clips else environments) if settings.needs_states else 0
    collector = Collector(task.in_training(), environments, reset_seed(settings.seed, 0), filmed)
    if settings.policy == "sac":
        return SAC(
            collector,
            replace(settings.exploration, discount=task.discount or settings.sac.discount),
            settings.seed,
            segment_steps,
            settings.steps,
        )
    ppo = replace(settings.ppo, entropy=task.entropy, rollout_steps=max(settings.ppo.rollout_steps, segment_steps))
    return PPO(collector, ppo, settings.seed, settings.steps)
