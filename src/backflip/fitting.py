"""Fitting: r̂ learns from the comparisons as they come in, and is published. §2.2.3"""

import json

import torch

from backflip.envs import find_task
from backflip.envs.facts import facts
from backflip.error_rates import most_likely
from backflip.files import write_whole
from backflip.fit import Fitter
from backflip.reward import Inputs, RewardEnsemble
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.settings import Settings
from backflip.store import Store


class Fit:
    """Fits r̂ to the comparisons as they come in, normalises it on recent behaviour, and publishes it. §2.2.3"""

    def __init__(self, run: RunDir, store: Store, settings: Settings) -> None:
        self.run, self.store, self.settings = run, store, settings
        self.fitter = Fitter(
            RewardEnsemble(self._inputs(), settings.reward, settings.seed), settings.fit, settings.seed
        )
        self.version = 0
        self._calibrated_at = 0
        self._arrived: float | None = None

    @classmethod
    def can_begin(cls, run: RunDir) -> bool:
        """Whether there is all that it needs to be made; others wait until there is."""
        del run
        return True

    def _inputs(self) -> Inputs:
        """What r̂ reads of a step."""
        told = facts(find_task(self.settings.task))
        return Inputs(told.observation_shape, told.action_size, told.discrete, told.first_action)

    def step(self) -> bool:
        """Take in new answers and fit; False if there was nothing new."""
        policy_steps = int(self.run.told("act").get("steps", 0))
        changes = self.store.changes(self.fitter.last_event)
        fitted = self.fitter.absorb(changes) and self._enough() and self.fitter.fit(self._error_rates())
        moved = (
            self.settings.calibrate_on == "recent"
            and self.fitter.fits > 0
            and self.fitter.data is not None  # else every answer was taken back
            and policy_steps - self._calibrated_at >= self.settings.calibrate_steps
        )
        if fitted or moved:
            self._arrived = changes.arrived if fitted else None
            self._publish(policy_steps)
        if fitted:
            values = self.fitter.report()
            delay = -1.0 if changes.arrived is None else self.store.clock() - changes.arrived
            if delay >= 0 and self.settings.mode == "at_once":  # else the clock was set back: not measured
                values["fit/answer_to_reward"] = delay
            self.run.record(policy_steps, values)
        return bool(fitted or moved)

    def _error_rates(self) -> dict[str, float]:
        """ε of each teacher, where the fit is to have more than one."""
        if self.settings.fit.error_rates == "flat":
            return {}
        rates = {name: rate.value for name, rate in most_likely(self.fitter.evidence()).items()}
        self.run.tell("error_rates", rates=json.dumps(rates))  # names may be anything
        return rates

    def _enough(self) -> bool:
        data = self.fitter.data
        if self.fitter.fits == 0 and (data is None or len(data) < self.settings.labels_before_training):
            self.run.tell("fit", state="waiting", version=0, comparisons=0 if data is None else len(data))
            return False
        return data is not None

    def _publish(self, policy_steps: int) -> None:
        assert self.fitter.data is not None
        ensemble = self.fitter.ensemble
        recent = [
            ensemble.raw(part.observations, part.actions)[:, torch.from_numpy(part.mask() > 0)]
            for part in self._calibration()
        ]
        ensemble.normalise(torch.cat(recent, 1))
        untrained = self.fitter.data.left[slice(self.settings.labels_before_training)]
        begun = untrained.mask() > 0
        ensemble.baseline = float(ensemble.reward(untrained.observations[begun], untrained.actions[begun]).mean())
        self._calibrated_at = policy_steps
        self.version += 1
        self._save_reward()
        self.run.tell(
            "fit",
            state="fitting",
            version=self.version,
            comparisons=len(self.fitter.data),
            last_event=self.fitter.last_event,
            arrived=self._arrived,
        )

    def _save_reward(self) -> None:
        with self.run.publishing("reward", self.version, durable=False) as directory:
            self.fitter.ensemble.save(directory / "reward.safetensors")

    def publish_again(self) -> None:
        """Publish the r̂ of the checkpoint, where none is there: what was published may not survive a power cut."""
        if self.fitter.fits and self.run.newest_number("reward") is None:
            self.version = max(1, self.version)
            self._save_reward()

    def _calibration(self) -> list[Segments]:
        """The segments that r̂ is normalised on."""
        data = self.fitter.data
        if self.settings.calibrate_on == "labelled" and data is not None:
            return [data.left, data.right]
        recent = self.store.recent(self.settings.calibrate_segments)
        assert recent is not None
        return [recent]

    def save(self, number: int) -> None:
        """A checkpoint."""
        with self.run.publishing("fit", number) as directory:
            self.fitter.save(directory)
            state = {"version": self.version, "calibrated_at": self._calibrated_at}
            write_whole(directory / "state.json", json.dumps(state).encode())

    def load(self, exactly: int | None = None) -> None:
        """Go on from the newest checkpoint, or from that of a number, if there is one."""
        checkpoint = self.run.newest("fit", exactly)
        if checkpoint is None:
            return
        state = json.loads((checkpoint.path / "state.json").read_text())
        self.fitter.load(checkpoint.path, self.store.comparisons())
        self.version = max(int(state["version"]), 0 if exactly is not None else self.run.newest_number("reward") or 0)
        self._calibrated_at = int(state["calibrated_at"])
