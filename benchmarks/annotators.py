"""Does r̂ get better when each annotator has an error rate of their own? Flat, common, estimated and known rates.

    python benchmarks/annotators.py [--quick] [--tasks cheetah reacher] [--seeds 100 ... 109] [--labels 100 300]

Three synthetic annotators answer by the true return, and err at known rates; each pair is put to one of them, and a
fifth of the pairs to a second one too. "random" are error rates ε of 10, 25 and 40 % (answers at random, half of which
are right), "mistakes" are 10, 25 and 40 % of wrong answers (B-Pref's mistake: ε of 20, 50 and 80 %). Segments come from
a policy that learns the task from its true reward, the same for all; r̂ is taught in six fits as in a run, from the very
same answers each time, and judged on segments that nobody was asked about: right orderings of pairs, and rank
correlation with the true return. flat: 10 % for everybody. common: for everybody the mean of the three known rates,
which tells apart what the level and what the differences are worth. estimated: before each fit, from what the members
left out expect and from the pairs that two answered. known: each their own. The last line is a JSON object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap, spearmanr

from backflip.envs import Collector, find_task
from backflip.error_rates import most_likely
from backflip.experiments import FAST
from backflip.fit import Fitter
from backflip.loop import one_thread
from backflip.policies.sac import SAC
from backflip.preferences import Comparisons
from backflip.queries import random_pairs
from backflip.reward import Inputs, RewardEnsemble
from backflip.segments import Segments, concatenate, cut_segments

OUT = Path(__file__).parent / "results" / "annotators.csv"
STEPS = 20_000
FITS = 6
OVERLAP = 0.2
RATES = {
    "random": {"ana": 0.1, "ben": 0.25, "cem": 0.4},
    "mistakes": {"ana": 0.2, "ben": 0.5, "cem": 0.8},
}
Row = dict[str, float | str]
ARMS = ("flat", "common", "estimated", "known")


def behaviour(task: str, seed: int, steps: int) -> Segments:
    """The segments of a policy that learns from the true reward."""
    config = replace(FAST.sac, capacity=steps)
    length = FAST.segment_steps or 50
    if task == "reacher":
        length = 25  # half an episode
    policy = SAC(Collector(find_task(task), config.environments, seed * 1_000), config, seed, length)
    rng = np.random.default_rng(seed)
    parts = []
    while policy.steps < steps:
        parts.append(cut_segments(policy.train(lambda rollout: rollout.true_rewards), length, policy.steps, rng))
    policy.collector.close()
    return concatenate(parts)


def answered(segments: Segments, rates: dict[str, float], labels: int, seed: int) -> Comparisons:
    """So many comparisons: what three annotators say of random pairs."""
    rng = np.random.default_rng([seed, labels])
    queries = round(labels / (1 + OVERLAP))
    pairs = random_pairs(rng, len(segments), queries)
    names = sorted(rates)
    who = [rng.permutation(len(names))[: 2 if rng.random() < OVERLAP else 1] for _ in range(queries)]
    query = np.repeat(np.arange(queries), [len(some) for some in who])
    teachers = np.array([names[one] for some in who for one in some])
    left, right = segments[pairs[query, 0]], segments[pairs[query, 1]]
    at_random = rng.random(len(query)) < np.array([rates[name] for name in teachers])
    right_answer = left.true_returns() > right.true_returns()
    mu = np.where(at_random, rng.random(len(query)) < 0.5, right_answer).astype(np.float32)
    return Comparisons(query + 1, left, right, mu, np.ones(len(query), np.float32), teachers)


def taught(data: Comparisons, arm: str, rates: dict[str, float], seed: int) -> tuple[Fitter, dict[str, float]]:
    """r̂ after fits to a sixth, two sixths ... of the answers, and the error rates in the last of them."""
    inputs = Inputs(data.left.observations.shape[2:], data.left.actions.shape[-1], False)
    fitter = Fitter(RewardEnsemble(inputs, FAST.reward, seed), FAST.fit, seed)
    mean = float(np.mean(list(rates.values())))
    given = {"flat": {}, "common": dict.fromkeys(rates, mean), "estimated": {}, "known": rates}[arm]
    for fit in range(1, FITS + 1):
        fitter.data = data[np.arange(len(data) * fit // FITS)]
        if arm == "estimated":
            given = {name: rate.value for name, rate in most_likely(fitter.evidence()).items()}
        fitter.fit(given)
    return fitter, given


def judged(fitter: Fitter, fresh: Segments, seed: int) -> dict[str, float]:
    """How r̂ orders segments that nobody was asked about."""
    returns = fitter.ensemble.segment_returns(fresh.observations, fresh.actions, fresh.mask())
    predicted, true = (returns / returns.std(1, keepdims=True)).mean(0), fresh.true_returns()
    pairs = random_pairs(np.random.default_rng([seed, 3]), len(fresh), 4_000)
    right = (predicted[pairs[:, 0]] > predicted[pairs[:, 1]]) == (true[pairs[:, 0]] > true[pairs[:, 1]])
    return {"ordered": float(right.mean()), "spearman": float(spearmanr(predicted, true).statistic)}


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return float("nan"), float("nan")
    found = bootstrap((differences,), np.mean, rng=np.random.default_rng(0), method="percentile").confidence_interval
    return float(found.low), float(found.high)


def main() -> None:
    """All of it, then the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds of one task, 100 labels, a short policy")
    parser.add_argument("--tasks", nargs="*", default=["cheetah", "reacher"])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(100, 110)))
    parser.add_argument("--labels", type=int, nargs="*", default=[100, 300])
    options = parser.parse_args()
    one_thread()
    tasks, seeds, budgets, steps = options.tasks, options.seeds, options.labels, STEPS
    if options.quick:
        tasks, seeds, budgets, steps = tasks[:1], seeds[:2], budgets[:1], 8_000
    table = Path(os.devnull) if options.quick else OUT
    rows = read(table) if table.is_file() else []
    done = {(row["task"], row["seed"]) for row in rows}
    for task, seed in ((task, seed) for task in tasks for seed in seeds if (task, seed) not in done):
        rows += measured(task, seed, budgets, steps)
        print(task, seed, flush=True)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    wanted = [row for row in rows if row["task"] in tasks and row["seed"] in seeds and row["labels"] in budgets]
    print(json.dumps(report(wanted)))


def read(table: Path) -> list[Row]:
    """What was measured before."""
    with table.open(newline="") as file:
        return [
            {name: value if name in ("task", "errors", "rates") else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def measured(task: str, seed: int, budgets: list[int], steps: int) -> list[Row]:
    """All arms on one policy's segments."""
    segments = behaviour(task, seed, steps)
    order = np.random.default_rng(seed).permutation(len(segments))
    asked, fresh = segments[order[::2]], segments[order[1::2]]
    rows: list[Row] = []
    for labels in budgets:
        for kind, rates in RATES.items():
            data = answered(asked, rates, labels, seed)
            for arm in ARMS:
                fitter, used = taught(data, arm, rates, seed)
                found: Row = {"task": task, "seed": seed, "labels": labels, "errors": kind, "rates": arm}
                estimates = {name: used.get(name, float("nan")) for name in sorted(rates)}
                rows.append({**found, **judged(fitter, fresh, seed), **estimates})
    return rows


def report(rows: list[Row]) -> dict[str, float]:
    """Means of each arm, and paired differences to the flat rate, printed and as figures."""
    figures: dict[str, float] = {}
    for task, labels, kind in dict.fromkeys((row["task"], row["labels"], row["errors"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["labels"], row["errors"]) == (task, labels, kind)]
        by_arm = {arm: [row for row in mine if row["rates"] == arm] for arm in ARMS}
        for name in ("ordered", "spearman"):
            values = {arm: np.array([float(row[name]) for row in by_arm[arm]]) for arm in ARMS}
            line = f"{task:8} {labels:4.0f} labels  {kind:9}{name:9}"
            for arm in ARMS:
                figures[f"{task}_{labels:.0f}_{kind}_{name}_{arm}"] = round(float(values[arm].mean()), 4)
                line += f"  {arm} {values[arm].mean():.3f}"
            for arm in ARMS[1:]:
                gain = values[arm] - values["flat"]
                low, high = interval(gain)
                figures[f"{task}_{labels:.0f}_{kind}_{name}_gain_{arm}"] = round(float(gain.mean()), 4)
                line += f"  {arm}-flat {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}] {(gain > 0).sum()}/{len(gain)}"
            print(line)
        rates = [np.mean([float(row[name]) for row in by_arm["estimated"]]) for name in sorted(RATES[str(kind)])]
        print(f"{'':24}estimated rates  {' '.join(f'{rate:.2f}' for rate in rates)}")
    return figures


if __name__ == "__main__":
    main()
