"""Does the oracle loop learn? The paper's comparison: 700 labels against its own curve, every seed shown.

    python benchmarks/learning.py [--quick] [--tasks cheetah Pendulum-v1] [--seeds 0 1 2]

One run a task and seed (`in_turn`, default settings), resumed where it stands if it was begun before. For each, the
true return along training, of ten evaluation episodes at the end, and the Spearman correlation of r̂ with the true
return on segments that no comparison used. cheetah is drawn over the digitised curves of Christiano et al. 2017,
figure 2. The last line is a JSON object of the figures.
"""

import argparse
import csv
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from backflip.acting import make_policy
from backflip.api import start
from backflip.evaluate import evaluate, load_ensemble, load_policy
from backflip.loop import in_turn, one_thread
from backflip.rundir import RunDir
from backflip.segments import cut_segments
from backflip.settings import Settings

BUDGETS = {"cheetah": (700, 2_000_000), "Pendulum-v1": (200, 300_000)}
"""Labels and environment steps."""
PAPER = Path(__file__).parent / "data" / "christiano2017_fig2_mujoco.csv"
WINDOW = 5
"""Lines of measurements in a training return that is compared with the paper's."""


def paper_curve(series: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Steps and true return of one of the paper's curves for the Cheetah."""
    with PAPER.open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "cheetah" and row["series"] == series]
    return np.array([(float(row["timestep"]), float(row["true_reward"])) for row in rows])


def train(task: str, seed: int, labels: int, steps: int, path: Path) -> tuple[RunDir, float]:
    """A run to its end; also its processor seconds (of this call)."""
    if (path / "run.json").exists():
        run = RunDir.open(path)
    else:
        run = start(Settings(task, teacher="oracle", labels=labels, steps=steps, seed=seed, mode="in_turn"), path)
    started = time.process_time()
    in_turn(run)
    return run, time.process_time() - started


def spearman(run: RunDir) -> float:
    """Rank correlation of r̂ and the true return over segments of fresh behaviour of the newest policy."""
    policy, ensemble = load_policy(run), load_ensemble(run)
    assert ensemble is not None
    with closing(run.store()) as store:
        recent = store.recent(1)
    assert recent is not None
    length = recent.true_rewards.shape[1]
    policy.collector.reset(99_991)
    steps = policy.steps
    rollouts = [policy.explore() for _ in range(8)]
    rng = np.random.default_rng(0)
    parts = [cut_segments(rollout, length, steps, rng) for rollout in rollouts]
    predicted = np.concatenate([(ensemble.reward(p.observations, p.actions) * p.mask()).sum(1) for p in parts])
    true = np.concatenate([p.true_returns() for p in parts])
    return float(spearmanr(predicted, true).statistic)


def curve(run: RunDir) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Steps and true return along training."""
    lines = [line for line in run.metrics()[0] if line["name"] == "act/true_return"]
    return np.array([(line["step"], line["value"]) for line in lines], float)


def by_true_reward(task: str, seed: int, steps: int) -> float:
    """Final training return of the same policy paid by the true reward: what the labels stand in for."""
    settings = Settings(task, teacher="oracle", steps=steps, seed=seed, mode="in_turn")
    policy = make_policy(settings, 1)
    from backflip.envs.episodes import Episodes

    episodes = Episodes(settings.ppo.environments)
    while policy.steps < steps:
        episodes.add(policy.train(lambda rollout: rollout.true_rewards))
    return float(np.mean([true_return for true_return, _ in episodes.finished[-50:]]))


def draw(curves: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]], out: Path) -> None:
    """A panel a task: every seed, and for the Cheetah the paper's curves below."""
    figure = Figure(figsize=(6 * len(curves), 4), layout="constrained")
    for position, (task, seeds) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), position + 1)
        if task == "cheetah":
            for series, colour in (("real", "#9ca3af"), ("700syn", "#ea580c")):
                points = paper_curve(series)
                shown = points[points[:, 0] <= 2.3e6]
                name = "paper: TRPO, true reward" if series == "real" else "paper: 700 labels"
                axes.plot(*shown.T, color=colour, linestyle="--", label=name)
        for seed, points in enumerate(seeds):
            axes.plot(*points.T, color="#2563eb", alpha=0.45 + 0.2 * seed, linewidth=1.2, label=f"ours, seed {seed}")
        axes.set(title=f"{task}, {BUDGETS[task][0]} labels", xlabel="environment steps", ylabel="true return")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(out / "learning.png", dpi=130)


def main() -> None:
    """Run what is missing, then the table, the figure and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of the Pendulum with a fifth of its steps")
    parser.add_argument("--tasks", nargs="*", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="where the run directories go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learning"))
    parser.add_argument("--baseline", action="store_true", help="also train each on the true reward")
    options = parser.parse_args()
    one_thread()
    tasks, seeds, scale = options.tasks, options.seeds, 1
    if options.quick:
        tasks, seeds, scale = ["Pendulum-v1"], [0], 5
        options.runs = options.out = Path(tempfile.mkdtemp())
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float | list[float]] = {}
    curves: dict[str, list[Any]] = {}
    for task in tasks:
        labels, steps = BUDGETS[task][0], BUDGETS[task][1] // scale
        curves[task] = []
        for seed in seeds:
            run, seconds = train(task, seed, labels, steps, options.runs / f"{task}-{seed}")
            points, found = curve(run), evaluate(run, 10)
            assert found.true_returns is not None
            curves[task].append(points)
            np.savetxt(options.out / f"{task}-{seed}.csv", points, "%.6g", ",", header="step,true_return", comments="")
            row = {
                "train": float(points[-WINDOW:, 1].mean()),
                "eval": float(np.mean(found.true_returns)),
                "spearman": spearman(run),
                "seconds": seconds,
            }
            if options.baseline:
                row["true_reward"] = by_true_reward(task, seed, steps)
            print(task, seed, {name: round(value, 3) for name, value in row.items()}, flush=True)
            for name, value in row.items():
                listed = figures.setdefault(f"{task}_{name}", [])
                assert isinstance(listed, list)
                listed.append(round(value, 3))
    if "cheetah" in tasks:
        paper = paper_curve("700syn")
        figures["paper_cheetah_700_at_2M"] = round(float(np.interp(2e6, *paper.T)), 1)
    draw(curves, options.out)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
