"""What makes a better r̂? Variants of labels.py that all learn from the same recorded behaviour.

    python benchmarks/recorded.py --tasks reacher cheetah --variants "" uniform entropy information diverse
    python benchmarks/recorded.py --tasks Pendulum-v1 --variants "" until-2026-11-30 crop --labels 50
    python benchmarks/recorded.py --quick

Whole runs differ more by their seeds than by what is varied, and take minutes each. Here a policy that the true reward
pays learns a task once for each recording; then asking and fitting go over its rollouts as in a run, while nobody
acts, which takes seconds. Every r̂ is judged on what the policy does next, as in a run it would pay it: correlation
with the true reward of single steps, and Spearman's of sums over segments, both within each fifth of the time that
there is an r̂, mean of the last four. The policy is the same for all, so that selectors choose from the same
segments, and fits differ by nothing else. What an r̂ is misled to pay for, only whole runs tell (labels.py).

A line of `results/recorded.csv` for each; those that are there are not run again. The last line is a JSON object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.stats import sem, spearmanr

from backflip.acting import make_policy
from backflip.api import start
from backflip.envs import find_task
from backflip.envs.facts import facts
from backflip.loop import Parts, in_turn, one_thread
from backflip.published import Published
from backflip.rundir import RunDir
from backflip.segments import Array, Rollout, cut_segments
from backflip.settings import Settings
from backflip.store import Store
from ingredients import INGREDIENTS
from labels import BARS, TRUE, VARIANTS, Bar, Job

OUT = Path(__file__).parent / "results" / "recorded.csv"
PARTS = 5
"""Parts of the time that there is an r̂; the first, in which it knows random behaviour alone, does not count."""
COLUMNS = ("task", "labels", "steps", "variant", "recording", "seed", "by_step", "by_segment")

Recording = list[tuple[int, Rollout]]
"""Environment steps so far, and the rollout that they ended with."""


def recorded(job: Job) -> Recording:
    """What a policy does that learns from the true reward."""
    settings = job.settings
    policy = make_policy(settings, segment_steps(settings))
    found: Recording = []
    while policy.steps < settings.steps:
        rollout = policy.train(lambda rollout: rollout.true_rewards)
        found.append((policy.steps, rollout))
    policy.collector.close()
    return found


def segment_steps(settings: Settings) -> int:
    """Steps of a segment."""
    return settings.segment_steps or facts(find_task(settings.task)).segment_steps


class Replayed:
    """Stands where a run's policy acts, and shows what was recorded."""

    def __init__(self, recording: Recording, run: RunDir, store: Store, settings: Settings) -> None:
        self.recording, self.run, self.store, self.settings = recording, run, store, settings
        self.policy = SimpleNamespace(steps=0)
        self.reward = Published(run)
        self.shown = 0
        self.paid: list[tuple[int, Array, Array]] = []
        """Steps so far, r̂ and true reward of a rollout, each [t e]."""

    @property
    def done(self) -> bool:
        """Whether all of it was shown."""
        return self.shown == len(self.recording)

    def step(self) -> None:
        """Show the next rollout, and pay it."""
        self.reward.refresh()
        steps, rollout = self.recording[self.shown]
        self.shown, self.policy.steps, ensemble = self.shown + 1, steps, self.reward.ensemble
        if ensemble is not None:
            paid = ensemble.reward(rollout.observations, rollout.actions)
            self.paid.append((steps, paid, rollout.true_rewards))
        rng = np.random.default_rng([self.settings.seed, self.shown])
        most = None if ensemble is None else self.settings.segments_per_rollout
        cut = cut_segments(rollout, segment_steps(self.settings), steps, rng, most=most, drawable_only=False)
        self.store.add(cut, self.settings.keep_segments)
        self.run.tell("act", state="training", steps=steps, total_steps=self.settings.steps)

    def save(self, number: int) -> None:
        """A checkpoint of nothing: it is never gone back to."""
        with self.run.publishing("act", number):
            self.reward.read_again()

    def tell(self, state: str) -> None:
        """Nobody is watching."""


def judged(paid: Sequence[tuple[int, Array, Array]], length: int) -> tuple[float, float]:
    """Correlation of single steps and Spearman's of sums over `length` steps, within each part of the time."""
    moments = np.array([steps for steps, *_ in paid])
    edges = np.linspace(moments[0], moments[-1], PARTS + 1)
    by_step, by_segment = [], []
    for begin, end in pairwise(edges[1:]):
        some = [part for moment, *part in paid if begin < moment <= end]
        ours, true = (np.concatenate(sides) for sides in zip(*some, strict=True))
        by_step.append(np.corrcoef(ours.ravel(), true.ravel())[0, 1])
        whole = len(ours) // length * length
        sums = [side[:whole].reshape(-1, length, side.shape[1]).sum(1).ravel() for side in (ours, true)]
        by_segment.append(spearmanr(*sums).statistic)
    return float(np.mean(by_step)), float(np.mean(by_segment))


def taught(recording: Recording, job: Job) -> tuple[float, float]:
    """How good an r̂ one variant learns from a recording."""
    acting: list[Replayed] = []

    def act(*given: Any) -> Replayed:
        acting.append(Replayed(recording, *given))
        return acting[0]

    with tempfile.TemporaryDirectory() as folder, INGREDIENTS.get(job.variant, nullcontext)():
        in_turn(start(job.settings, Path(folder) / "run"), parts=Parts(act=act))
    return judged(acting[0].paid, segment_steps(job.settings))


def done() -> list[dict[str, str]]:
    """The table as it stands."""
    return list(csv.DictReader(OUT.read_text().splitlines())) if OUT.exists() else []


def main() -> None:
    """Run what is missing, then print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the Pendulum, one recording, two variants")
    parser.add_argument("--tasks", nargs="*", default=["Pendulum-v1", "reacher", "cheetah"])
    parser.add_argument("--variants", nargs="*", default=["", "uniform"], choices=sorted(VARIANTS.keys() - TRUE))
    parser.add_argument("--labels", type=int, help="by default each task's bar")
    parser.add_argument("--steps", type=int, help="environment steps of a recording; by default each task's bar")
    parser.add_argument("--recordings", type=int, nargs="*", default=[20, 21], help="seeds of the recorded policy")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3], help="of asking and fitting")
    options = parser.parse_args()
    if options.quick:
        global OUT
        OUT = Path(tempfile.mkdtemp()) / OUT.name
        options.tasks, options.steps, options.recordings, options.seeds = ["Pendulum-v1"], 6_000, [20], [0]
    one_thread()
    have = {tuple(row[name] for name in COLUMNS[:-2]) for row in done()}
    for task in options.tasks:
        bar = BARS.get(task, Bar(100, 100_000, 3))
        labels, steps = options.labels or bar.labels, options.steps or bar.steps
        for number in options.recordings:
            recording: Recording = []
            for variant in options.variants:
                for seed in options.seeds:
                    key = (task, labels, steps, variant, number, seed)
                    if tuple(map(str, key)) in have:
                        continue
                    recording = recording or recorded(Job(task, "fast", "", "oracle", labels, steps, number))
                    found = taught(recording, Job(task, "fast", variant, "oracle", labels, steps, seed))
                    new = not OUT.exists()
                    with OUT.open("a", newline="") as file:
                        writer = csv.writer(file, lineterminator="\n")
                        writer.writerows([COLUMNS] * new + [(*key, *(round(value, 4) for value in found))])
                    print(*key, *(round(value, 3) for value in found), flush=True)
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in done():
        name = "/".join(row[part] for part in COLUMNS[:4] if row[part])
        groups.setdefault(name, []).append((float(row["by_step"]), float(row["by_segment"])))
    figures = {}
    for name, values in groups.items():
        (step, segment), errors = np.mean(values, 0), sem(values) if len(values) > 1 else (0.0, 0.0)
        print(
            f"{name:44} {len(values):3} by step {step:.3f} ({errors[0]:.3f}) by segment {segment:.3f} ({errors[1]:.3f})"
        )
        figures[name] = {"runs": len(values), "by_step": round(step, 3), "by_segment": round(segment, 3)}
    print(json.dumps(figures))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
