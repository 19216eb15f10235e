"""How few labels, steps and minutes does it take? A table of tasks x labels x seeds x presets x teachers x variants.

    python benchmarks/labels.py                                     # the bars of docs/results.md
    python benchmarks/labels.py --tasks cheetah --labels 20 50 100 200 400
    python benchmarks/labels.py --tasks cheetah reacher --variants fast uniform crop --seeds 0 1 2 3 4
    python benchmarks/labels.py --quick

A run a line: those that are in the table already are not run again, and one that was interrupted goes on where it
stood. Two run at a time, a thread each. Kept for each: its curve (`results/labels/curves/*.csv`: step, labels, true
return of ten episodes without exploration) and a line of `results/labels/runs.csv`. The final score is the mean of the
last five evaluations, never the best. `normalised` is (R - R_random) / (R_true - R_random): R_true from the same policy
with the same steps paid by the true reward (variant `true`), R_random from uniformly random actions, both measured.
Reporting seeds begin at 100; tuning was done on seeds below 10. benchmarks/plot.py draws what this wrote.
The last line is a JSON object of the figures.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import csv
import json
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr, trim_mean

from backflip.acting import make_policy
from backflip.api import start
from backflip.envs import find_task
from backflip.envs.episodes import first_returns, whole_episodes
from backflip.envs.facts import facts
from backflip.evaluate import load_ensemble
from backflip.experiments import FAST, PRESETS, reading_sizes, settings_for
from backflip.loop import in_turn, one_thread
from backflip.queries import pair_probabilities, random_pairs
from backflip.rundir import RunDir
from backflip.settings import Settings, reset_seed
from ingredients import INGREDIENTS

OUT = Path(__file__).parent / "results" / "labels"
RUNS = Path("runs/labels")
EVALUATIONS = 20
LAST = 5
"""Evaluations that make the final score."""
FRESH = 400
"""Newest segments that r̂ is judged on."""


@dataclass(frozen=True)
class Bar:
    """What a task is run with, unless the command line says otherwise."""

    labels: int
    steps: int
    seeds: int


BARS = {
    "Pendulum-v1": Bar(50, 30_000, 5),
    "reacher": Bar(100, 100_000, 5),
    "cheetah": Bar(100, 150_000, 5),
    "dmc-walker-walk": Bar(100, 250_000, 5),
    "dmc-cheetah-run": Bar(100, 1_000_000, 3),
    "hopper": Bar(200, 300_000, 3),
    "walker": Bar(250, 500_000, 3),
    "swimmer": Bar(200, 500_000, 3),
}


def _inside(part: str, **changes: Any) -> Callable[[Settings], Settings]:
    """A variant that changes settings of one part."""

    def changed(settings: Settings) -> Settings:
        return replace(settings, **{part: replace(getattr(settings, part), **changes)})

    return changed


VARIANTS: dict[str, Callable[[Settings], Settings]] = {
    "": lambda settings: settings,
    "true": lambda settings: settings,  # paid by the true reward
    "uniform": _inside("ask", selector="uniform"),
    "entropy": _inside("ask", selector="entropy"),
    "information": _inside("ask", selector="information"),
    "diverse": _inside("ask", selector="diverse"),
    "newest": _inside("ask", newest=0.3),
    "newest-information": _inside("ask", newest=0.3, selector="information"),
    "variance": _inside("ask", newest=1.0, selector="variance"),
    "not-pretrained": _inside("sac", entropy_steps=0),
    "until-2026-11-30": lambda settings: replace(  # fits of 200 minibatches, crops, nothing of walker-walk's own
        settings,
        fit=replace(settings.fit, steps_per_comparison=None, shortest_crop=0.7),
        ask=replace(settings.ask, newest=1.0, selector="variance"),
        sac=replace(settings.sac, entropy_steps=0),
    ),
    "near-policy": _inside("ask", recent=480),  # the newest 24,000 steps (QPA: the last ten episodes)
    "labels-by-a-third": _inside("ask", until=1 / 3),
    "fixed-l2": _inside("fit", l2_rate=1.0),
    "unbounded-l2": _inside("fit", l2=1e-4, largest_l2=10.0),
    "segments-15": lambda settings: replace(settings, segment_steps=15),
    "slow-l2": _inside("fit", l2_rate=1.001),
    "crop": _inside("fit", shortest_crop=0.7),  # as SURF, which crops 50 steps to 35-55
    "no-error": _inside("fit", error_rate=0.0),
    "bounded": _inside("reward", bounded=True),
    "sizes": reading_sizes,
    "no-sizes": lambda settings: replace(  # with fits of 200 minibatches and crops, too, as all were when it was run
        settings, reward=FAST.reward, fit=replace(FAST.fit, steps_per_comparison=None, shortest_crop=0.7)
    ),
    "members-1": _inside("reward", members=1),
    "members-5": _inside("reward", members=5),
    "width-256": _inside("reward", width=256),
    "twice-the-updates": _inside("sac", updates_per_step=1.0),
    "pretrained": _inside("sac", entropy_steps=5_000),
    "segments-25": lambda settings: replace(settings, segment_steps=25),
    "segments-100": lambda settings: replace(settings, segment_steps=100),
    "segments-200": lambda settings: replace(settings, segment_steps=200),
    "spread": lambda settings: replace(
        settings, ask=replace(settings.ask, half_life=0.4 * settings.steps, until=0.9)
    ),  # as the tasks of the control suite have it
    "normalised-recent": lambda settings: replace(settings, calibrate_on="recent"),
    "float32": _inside("sac", bfloat16=False),
    "true-float32": _inside("sac", bfloat16=False),
    "falling": _inside("sac", constant_until=0.6),
    **dict.fromkeys(INGREDIENTS, lambda settings: settings),
}
TRUE = {"true", "true-float32"}
"""Variants without labels."""


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    preset: str
    variant: str
    teacher: str
    labels: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """As a file's name."""
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.task}-{self.preset}{variant}-{self.teacher}-{self.labels}-{self.steps}-{self.seed}"

    @property
    def settings(self) -> Settings:
        """As a run's settings."""
        plain = settings_for(
            self.task,
            self.preset,
            teacher=self.teacher,
            labels=max(1, self.labels),
            steps=self.steps,
            seed=self.seed,
            mode="in_turn",
            evaluate_steps=max(1, self.steps // EVALUATIONS),
        )
        return VARIANTS[self.variant](plain)


def end_with_parent() -> None:
    """Let this process end when the one that started it was killed, rather than train on for nobody."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


Curve = list[tuple[int, int, float]]
"""Step, labels by then, true return."""


def run(job: Job) -> dict[str, Any]:
    """Do one run, keep its curve, and return its line of the table."""
    one_thread()
    started, before = time.perf_counter(), time.process_time()
    with INGREDIENTS.get(job.variant, nullcontext)():
        curve, extra = paid_by_true_reward(job) if job.variant in TRUE else taught(job)
    (OUT / "curves").mkdir(parents=True, exist_ok=True)
    with (OUT / "curves" / f"{job.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "labels", "true_return"])
        writer.writerows((step, labels, round(value, 2)) for step, labels, value in curve)
    return {
        **asdict(job),
        "final": round(float(np.mean([value for *_, value in curve[-LAST:]])), 2),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - before, 1),
        **extra,
    }


def taught(job: Job) -> tuple[Curve, dict[str, Any]]:
    """A run of the whole method; one that was interrupted goes on."""
    path = RUNS / job.name
    directory = RunDir.open(path) if (path / "run.json").exists() else start(job.settings, path)
    in_turn(directory)
    values: dict[str, list[tuple[int, float]]] = {}
    for line in directory.metrics()[0]:
        values.setdefault(line["name"], []).append((line["step"], line["value"]))
    curve = [
        (step, int(max((labels for asked, labels in values["ask/labels"] if asked <= step), default=0)), value)
        for step, value in values["act/evaluation"]
    ]
    extra = {
        name: round(values[f"fit/{name}"][-1][1], 4) for name in ("loss_ratio", "accuracy") if f"fit/{name}" in values
    }
    extra |= judged(directory)
    shutil.rmtree(path)
    return curve, extra


def judged(directory: RunDir) -> dict[str, Any]:
    """How well r̂ orders fresh behaviour, and whether its probabilities are right."""
    ensemble = load_ensemble(directory)
    assert ensemble is not None
    with closing(directory.store()) as store:
        fresh = store.recent(FRESH)
        labelled = store.counts().labels
    assert fresh is not None
    true = fresh.true_returns()
    predicted = ensemble.segment_returns(fresh.observations, fresh.actions, fresh.mask())
    normal = (predicted / ensemble.output_deviation.numpy()[:, None]).mean(0)
    pairs = random_pairs(np.random.default_rng(0), len(fresh), 2000)
    p = pair_probabilities(ensemble, fresh, pairs).mean(0)
    left = true[pairs[:, 0]] > true[pairs[:, 1]]
    decile = np.minimum((p * 10).astype(int), 9)
    reliability = [
        [round(float(p[decile == d].mean()), 3), round(float(left[decile == d].mean()), 3), int((decile == d).sum())]
        for d in sorted(set(decile.tolist()))
    ]
    return {
        "labels_given": labelled,
        "spearman": round(float(spearmanr(normal, true).statistic), 4),
        "ordered": round(float(((p > 0.5) == left).mean()), 4),
        "reliability": json.dumps(reliability),
    }


def paid_by_true_reward(job: Job) -> tuple[Curve, dict[str, Any]]:
    """The same policy with the same steps, paid by the true reward."""
    settings, task = job.settings, find_task(job.task)
    policy = make_policy(settings, settings.segment_steps or facts(task).segment_steps)
    curve: Curve = []
    while policy.steps < settings.steps:
        policy.train(lambda rollout: rollout.true_rewards)
        every = settings.evaluate_steps or settings.steps
        if policy.steps // every > len(curve):
            curve.append((policy.steps, 0, evaluation(policy.choose, job.task, reset_seed(job.seed, -1 - len(curve)))))
    return curve, {}


def evaluation(choose: Any, name: str, seed: int, episodes: int = 10) -> float:
    """Mean true return of whole episodes."""
    task = find_task(name)
    length = facts(task).episode_steps
    assert length is not None
    played = whole_episodes(task, choose, episodes, length, seed)
    return float(np.mean([value for rollout in played for value in first_returns(rollout)]))


def random_return(task: str) -> float:
    """Mean true return of uniformly random actions, thirty episodes."""
    env = find_task(task).make()
    space, rng = env.action_space, np.random.default_rng(7)
    env.close()
    low, high = getattr(space, "low", -1), getattr(space, "high", 1)

    def act(seen: Any) -> Any:
        return rng.uniform(low, high, (len(seen), *(space.shape or ()))).astype(np.float32)

    return evaluation(act, task, 70_000, 30)


COLUMNS = [
    *(field.name for field in fields(Job)),
    *("final", "wall_seconds", "cpu_seconds", "labels_given", "loss_ratio", "accuracy", "spearman", "ordered"),
    "reliability",
]


def done() -> list[dict[str, str]]:
    """The table as it stands."""
    file = OUT / "runs.csv"
    if not file.exists():
        return []
    with file.open() as lines:
        return list(csv.DictReader(lines))


def append(row: dict[str, Any]) -> None:
    """A new line of the table."""
    file = OUT / "runs.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def ends() -> dict[str, float]:
    """R_random by task, measured once."""
    file = OUT / "random.json"
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return found


def figures(rows: list[dict[str, str]], random: dict[str, float]) -> dict[str, Any]:
    """For each task, preset, variant, teacher and budget: interquartile mean, worst and normalised score."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if int(row["seed"]) >= 100:
            key = tuple(row[name] for name in ("task", "preset", "variant", "teacher", "labels", "steps"))
            groups.setdefault(key, []).append(row)
    by_true = {
        (key[0], key[1], key[5]): trim_mean([float(row["final"]) for row in group], 0.25)
        for key, group in groups.items()
        if key[2] == "true"
    }
    table: dict[str, Any] = {}
    for key, group in sorted(groups.items()):
        scores = [float(row["final"]) for row in group]
        middle = float(trim_mean(scores, 0.25))
        entry: dict[str, Any] = {"seeds": len(scores), "iqm": round(middle, 1), "worst": round(min(scores), 1)}
        true = by_true.get((key[0], key[1], key[5]))
        if true is not None and key[0] in random and key[2] not in TRUE:
            entry["normalised"] = round(float(middle - random[key[0]]) / float(true - random[key[0]]), 3)
        entry["cpu_seconds"] = round(float(np.mean([float(row["cpu_seconds"]) for row in group])))
        table["/".join(part for part in key if part)] = entry
    return table


def main() -> None:
    """Run what is missing, then print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the Pendulum, once, and its true reward")
    parser.add_argument("--tasks", nargs="*", default=list(BARS), help="tasks; by default those with a bar")
    parser.add_argument("--labels", type=int, nargs="*", help="label budgets; by default each task's bar")
    parser.add_argument("--steps", type=int, help="environment steps; by default each task's bar")
    parser.add_argument("--seeds", type=int, nargs="*", help="by default as many as the bar wants, from 100 on")
    parser.add_argument("--presets", nargs="*", default=["fast"], choices=list(PRESETS))
    parser.add_argument("--variants", nargs="*", default=["", "true"], choices=list(VARIANTS))
    parser.add_argument("--teachers", nargs="*", default=["oracle"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.quick:
        global OUT, RUNS
        OUT = RUNS = Path(tempfile.mkdtemp())
        options.tasks, options.seeds, options.steps, options.labels = ["Pendulum-v1"], [100], 10_000, [30]
    jobs = [
        Job(task, preset, variant, teacher, 0 if variant in TRUE else labels, options.steps or bar.steps, seed)
        for task in options.tasks
        for bar in [BARS.get(task, Bar(100, 100_000, 3))]
        for preset in options.presets
        for variant in options.variants
        for labels in (options.labels or [bar.labels] if variant not in TRUE else [0])
        for teacher in (options.teachers if variant not in TRUE else ["oracle"])
        for seed in (options.seeds or range(100, 100 + bar.seeds))
    ]
    have = {
        Job(
            **{
                f.name: type_(row[f.name])
                for f, type_ in zip(fields(Job), (str, str, str, str, int, int, int), strict=True)
            }
        )
        for row in done()
    }
    jobs = [job for job in jobs if job not in have]
    random = ends()
    for task in options.tasks:
        if task not in random:
            random[task] = round(random_return(task), 2)
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "random.json").write_text(json.dumps(random, indent=1, sort_keys=True) + "\n")
    context = multiprocessing.get_context("fork" if options.quick else "spawn")
    with ProcessPoolExecutor(options.workers, context, end_with_parent) as pool:
        waiting = {pool.submit(run, job): job for job in jobs}
        for number, future in enumerate(as_completed(waiting)):
            row = future.result()
            append(row)
            print(
                f"{number + 1}/{len(jobs)}", waiting[future].name, row["final"], f"{row['cpu_seconds']} s", flush=True
            )
    table = figures(done(), random)
    for name, entry in table.items():
        print(f"{name:60} {entry}")
    print(json.dumps(table))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
