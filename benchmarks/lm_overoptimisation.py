"""Over-optimisation: what r̂ gives and what is true, as a language model moves away from the original.

    python benchmarks/lm_overoptimisation.py [--quick] [--labels 100] [--seeds 0 1 2] [--batches 80]

The model `tiny` and the task sentiment. 100 pairs of the original's completions are compared by VADER, a tenth of the
answers flipped; r̂ is fitted to them once, with the rule that moves ℓ2 until validation loss is 1.1-1.5 times training
loss (§2.2.3), and with ℓ2 left at its start. The policy is then tuned on r̂ with hardly any price of a nat: on one
member, on the members' mean, on their minimum, and on the mean less one deviation. After each batch: √KL, the r̂ that it
is paid by, and VADER's score, both in deviations on the original's completions. A table and a picture are written. The
last line is a JSON object: for each arm the largest true score, the KL there, and the true score at the end.
"""

import argparse
import csv
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backflip.experiments import TEXT
from backflip.fit import Fitter
from backflip.lm.reward import CompletionReward, Read, as_segments
from backflip.lm.small import find
from backflip.lm.tasks import sentiment, text_task
from backflip.lm.tune import Tuner
from backflip.loop import one_thread
from backflip.preferences import Changes, Comparisons
from backflip.reward import Inputs, RewardEnsemble
from backflip.segments import Array
from backflip.tuning import TuneConfig

HERE = Path(__file__).parent
TABLE = HERE / "results" / "lm_overoptimisation.csv"
PICTURE = HERE.parent / "docs" / "pictures" / "overoptimisation.png"
AGGREGATES = ("member", "mean", "minimum", "pessimistic")
FIELDS = ["l2", "aggregate", "seed", "batch", "kl", "proxy", "gold"]
FITS, BETA, LEARNING_RATE, MISTAKES = 8, 0.005, 1e-4, 0.1
ORIGINALS = 512
"""Completions of the original on which both scores are normalised."""


def fitted(tuner: Tuner, labels: int, adapts: bool, seed: int) -> RewardEnsemble:
    """r̂ of comparisons between two of the original's completions of a prompt."""
    rng = np.random.default_rng([seed, 1])
    every = text_task("sentiment").prompts()
    sampled = tuner.sample([every[i] for i in rng.integers(len(every), size=labels)], 2, (seed, 1))
    gold = sentiment(sampled.texts)
    segments = as_segments(sampled.texts, sampled.read, gold, tuner.config, 0)
    left, right = gold[::2], gold[1::2]
    mu = np.where(left > right, 1.0, np.where(left < right, 0.0, 0.5))
    mu = np.where(rng.random(labels) < MISTAKES, 1 - mu, mu).astype(np.float32)
    numbers = np.arange(labels, dtype=np.int64)
    data = Comparisons(numbers, segments[0::2], segments[1::2], mu, np.ones(labels, np.float32))
    config = TEXT.fit if adapts else replace(TEXT.fit, l2_rate=1.0)
    ensemble = RewardEnsemble(Inputs((tuner.reader.size,), 0, discrete=False), TEXT.reward, seed)
    fitter = Fitter(ensemble, config, seed)
    fitter.absorb(Changes(numbers, data, labels))
    for _ in range(FITS):
        fitter.fit()
    return ensemble


def paid(reward: CompletionReward, aggregate: str, read: Read) -> Array:
    """What the policy is paid."""
    return reward.members(read)[0] if aggregate == "member" else reward(read)


def tuned(aggregate: str, labels: int, adapts: bool, batches: int, seed: int) -> list[dict[str, Any]]:
    """KL, r̂ and true score after each batch."""
    config = TuneConfig(model="tiny", controller="fixed", beta=BETA, learning_rate=LEARNING_RATE)
    tuner = Tuner(find("tiny"), config, seed)
    every = text_task("sentiment").prompts()
    rng = np.random.default_rng([seed, 2])
    ensemble = fitted(tuner, labels, adapts, seed)
    first = tuner.sample([every[i] for i in rng.integers(len(every), size=ORIGINALS // 2)], 2, (seed, 2))
    scores = sentiment(first.texts)
    kind = "mean" if aggregate == "member" else aggregate
    reward = CompletionReward(ensemble, first.read, kind)
    there = paid(reward, aggregate, first.read)
    rows = []
    for batch in range(batches):
        prompts = [every[i] for i in rng.choice(len(every), config.batch_prompts, replace=False)]
        sampled = tuner.sample(prompts, config.completions, (seed, 3, batch))
        proxy = paid(reward, aggregate, sampled.read)
        gold = (sentiment(sampled.texts) - scores.mean()) / scores.std()
        rows.append(
            {
                "l2": "rule" if adapts else "fixed",
                "aggregate": aggregate,
                "seed": seed,
                "batch": batch,
                "kl": round(sampled.exact_kl, 3),
                "proxy": round(float((proxy.mean() - there.mean()) / there.std()), 3),
                "gold": round(float(gold.mean()), 3),
            }
        )
        tuner.learn(sampled, proxy.astype(np.float32))
    return rows


def smooth(values: list[float], width: int = 8) -> list[float]:
    """Means of so many in a row, up to each."""
    return [statistics.fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def arms_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Means over seeds of each arm's rows, batch by batch, smoothed."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for arm in sorted({(row["l2"], row["aggregate"]) for row in rows}):
        batches: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            if (row["l2"], row["aggregate"]) == arm:
                batches.setdefault(int(row["batch"]), []).append(row)
        found[arm] = {
            name: smooth([statistics.fmean(float(row[name]) for row in batches[i]) for i in sorted(batches)])
            for name in ("kl", "proxy", "gold")
        }
    return found


def draw(arms: dict[tuple[str, str], dict[str, list[float]]], seeds: int) -> None:
    """Write the picture: r̂ broken, truth whole, over √KL."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = dict(zip(AGGREGATES, ("#646e80", "#3562e3", "#178a50", "#cf6a12"), strict=True))
    for axis, l2 in zip(axes, ("rule", "fixed"), strict=True):
        for (kind, aggregate), values in arms.items():
            if kind == l2:
                way = [math.sqrt(max(0.0, kl)) for kl in values["kl"]]
                axis.plot(way, values["proxy"], "--", color=colours[aggregate], linewidth=1, alpha=0.7)
                axis.plot(way, values["gold"], color=colours[aggregate], label=aggregate)
        axis.set_title("ℓ2 by the validation rule" if l2 == "rule" else "ℓ2 fixed", fontsize=10)
        axis.set_xlabel("√KL to the original [√nat]")
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("deviations of the original")
    axes[0].legend(title=f"true score; r̂ broken; seeds: {seeds}", fontsize=8, title_fontsize=8)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Every arm over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few batches, two arms, nothing written")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=80)
    args = parser.parse_args()
    one_thread()
    aggregates: tuple[str, ...] = AGGREGATES
    if args.quick:
        args.seeds, args.batches, aggregates = [0], 6, ("member", "minimum")
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for adapts in (True, False):
            for aggregate in aggregates:
                rows += tuned(aggregate, args.labels, adapts, args.batches, seed)
                print(rows[-1], flush=True)
        if not args.quick:
            with TABLE.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            draw(arms_of(rows), len({row["seed"] for row in rows}))
    figures = {}
    for (l2, aggregate), values in arms_of(rows).items():
        best = max(range(len(values["gold"])), key=lambda i: values["gold"][i])
        figures[f"{l2}/{aggregate}"] = {
            "largest_gold": round(values["gold"][best], 3),
            "kl_there": round(values["kl"][best], 2),
            "gold_at_the_end": round(values["gold"][-1], 3),
            "proxy_at_the_end": round(values["proxy"][-1], 3),
            "kl_at_the_end": round(values["kl"][-1], 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
