"""Can it be taught what no reward describes? Backflips of the Hopper, or a Cheetah on one leg, by a script's choices.

    python benchmarks/novel.py                            # 200 labels, seeds 100-104
    python benchmarks/novel.py --labels 50 100 --seeds 100 101 102
    python benchmarks/novel.py --task cheetah-one-leg
    python benchmarks/novel.py --quick

A script stands in for the person (`envs.scripts`), and errs in one answer of ten that it decides. The final
policy plays ten whole episodes without exploration, and what it does in them is counted by a stricter rule
than the script's. The bar: a backflip an episode, or four fifths of the steps forward on one leg. A run a line of
`results/novel/runs.csv`: those that are there are not run again, one that was interrupted goes on where it stood, two
run at a time with a thread each. Each leaves its curve (`results/novel/curves/*.csv`: step, labels, behaviour) and its
run directory, for `backflip evaluate RUN --video flips.webp`. The last line is a JSON object of the figures.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import csv
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from backflip.api import start
from backflip.envs import find_task
from backflip.evaluate import evaluate
from backflip.experiments import settings_for
from backflip.loop import in_turn, one_thread
from backflip.rundir import RunDir
from backflip.settings import SCRIPTED, Settings
from labels import end_with_parent

BARS = {"hopper-backflip": 1.0, "cheetah-one-leg": 0.8}
"""Mean behaviour of an episode from which on a task counts as learned (docs/results.md)."""
EVALUATIONS = 20
LAST = 5
"""Evaluations whose mean says how steady what was learned is, as in labels.py."""


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    labels: int
    steps: int
    segment_steps: int
    """0 for 1.5 seconds."""
    seed: int

    @property
    def name(self) -> str:
        """As a file's name."""
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def settings(self) -> Settings:
        """As a run's settings."""
        return settings_for(
            self.task,
            teacher=SCRIPTED,
            labels=self.labels,
            steps=self.steps,
            segment_steps=self.segment_steps or None,
            seed=self.seed,
            mode="in_turn",
            evaluate_steps=max(5_000, self.steps // EVALUATIONS),
        )


def run(job: Job, out: Path, runs: Path, episodes: int) -> dict[str, Any]:
    """Do one run, keep its curve, and return its line of the table."""
    one_thread()
    started, before = time.perf_counter(), time.process_time()
    path = runs / job.name
    directory = RunDir.open(path) if (path / "run.json").exists() else start(job.settings, path)
    in_turn(directory)
    found = evaluate(directory, episodes)
    assert found.behaviour is not None
    (out / "curves").mkdir(parents=True, exist_ok=True)
    with (out / "curves" / f"{job.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "labels", "behaviour"])
        writer.writerows(curve(directory))
    return {
        **asdict(job),
        "behaviour": round(float(np.mean(found.behaviour)), 3),
        "episodes": json.dumps([round(value, 3) for value in found.behaviour]),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - before, 1),
    }


def curve(directory: RunDir) -> list[tuple[int, int, float]]:
    """Step, labels by then, and mean behaviour at each evaluation while training."""
    lines = directory.metrics()[0]
    labels = [(line["step"], int(line["value"])) for line in lines if line["name"] == "ask/labels"]
    return [
        (line["step"], max((given for asked, given in labels if asked <= line["step"]), default=0), line["value"])
        for line in lines
        if line["name"] == "act/behaviour"
    ]


COLUMNS = [*(field.name for field in fields(Job)), "behaviour", "episodes", "wall_seconds", "cpu_seconds"]


def done(out: Path) -> dict[Job, dict[str, str]]:
    """The table as it stands."""
    file = out / "runs.csv"
    if not file.exists():
        return {}
    with file.open() as lines:
        return {
            Job(row["task"], *(int(row[field.name]) for field in fields(Job)[1:])): row for row in csv.DictReader(lines)
        }


def append(out: Path, row: dict[str, Any]) -> None:
    """A new line of the table."""
    file = out / "runs.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def last_evaluations(out: Path, job: Job) -> float:
    """Mean behaviour in a run's last evaluations while training."""
    with (out / "curves" / f"{job.name}.csv").open() as lines:
        return float(np.mean([float(row["behaviour"]) for row in csv.DictReader(lines)][-LAST:]))


def figures(out: Path, wanted: list[Job]) -> dict[str, Any]:
    """For each task and budget among those wanted: the shares of seeds that reach the bar, and what each came to.

    Both by the final policy, and by the mean of the last evaluations while training.
    """
    rows, groups = done(out), {job: f"{job.task}/{job.labels}/{job.steps}/{job.segment_steps}" for job in wanted}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(groups.values()):
        jobs = [job for job in wanted if groups[job] == name]
        final = [float(rows[job]["behaviour"]) for job in jobs]
        last = [round(last_evaluations(out, job), 3) for job in jobs]
        bar = BARS[jobs[0].task]
        found[name] = {
            "share_of_seeds": round(float(np.mean(np.array(final) >= bar)), 3),
            "share_of_seeds_by_last_evaluations": round(float(np.mean(np.array(last) >= bar)), 3),
            "behaviour": final,
            "last_evaluations": last,
            "labels": jobs[0].labels,
            "steps": jobs[0].steps,
            "seeds": [job.seed for job in jobs],
            "cpu_seconds": round(float(np.mean([float(rows[job]["cpu_seconds"]) for job in jobs]))),
        }
    return found


def main() -> None:
    """Run what is missing, then print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short run that learns nothing yet")
    parser.add_argument("--task", default="hopper-backflip", choices=list(BARS))
    parser.add_argument("--labels", type=int, nargs="*", default=[200])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(100, 105)))
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--segment-steps", type=int, help="by default as many as the task says")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    out, runs, episodes = Path(__file__).parent / "results" / "novel", Path("runs/novel"), 10
    if options.quick:
        out = runs = Path(tempfile.mkdtemp())
        options.labels, options.seeds, options.steps, episodes = [20], [100], 8_000, 2
    segment_steps = options.segment_steps or find_task(options.task).segment_steps or 0
    jobs = [
        Job(options.task, labels, options.steps, segment_steps, seed)
        for labels in options.labels
        for seed in options.seeds
    ]
    missing = [job for job in jobs if job not in done(out)]
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        waiting = {pool.submit(run, job, out, runs, episodes): job for job in missing}
        for number, future in enumerate(as_completed(waiting)):
            row = future.result()
            append(out, row)
            print(f"{number + 1}/{len(missing)}", waiting[future].name, row["episodes"], row["cpu_seconds"], flush=True)
    table = figures(out, jobs)
    for name, entry in table.items():
        print(f"{name:45} {entry}")
    print(json.dumps(table))


if __name__ == "__main__":
    main()
