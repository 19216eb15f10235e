"""Which pairs should be asked? The selectors at equal labels, each choosing from the same candidate pairs.

    python benchmarks/selection.py [--quick] [--tasks cheetah reacher] [--seeds 100 101 102 103 104]

A policy that is paid by the true reward learns a task for 30,000 steps; its segments are kept. Then, for each
selector, r̂ is taught from them as in a run: 20 comparisons of random behaviour, then ten at each of five later moments,
chosen from the pairs that every selector is offered at that moment. After each, r̂ is judged on segments that come only
later (rank correlation with the true return) and on pairs of the whole run (right orderings). The policy is the same
for all, so this compares selectors and nothing else; benchmarks/labels.py compares whole runs. The last line is a JSON
object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import spearmanr

from backflip.envs import Collector, find_task
from backflip.experiments import FAST
from backflip.fit import Fitter
from backflip.loop import one_thread
from backflip.policies.sac import SAC
from backflip.preferences import Comparisons
from backflip.queries import Selector, random_pairs, select_queries
from backflip.reward import Inputs, RewardEnsemble
from backflip.segments import Segments, concatenate, cut_segments

OUT = Path(__file__).parent / "results" / "selection.csv"
STEPS = 30_000
FIRST, MORE = 20, 10
"""Comparisons of random behaviour, and at each later moment."""
MOMENTS = (6_000, 9_000, 13_000, 18_000, 24_000)
"""Environment steps after which more is asked."""
SELECTORS: tuple[Selector, ...] = get_args(Selector)


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


def compared(segments: Segments, pairs: Any, first_id: int) -> Comparisons:
    """What an oracle says of some pairs."""
    left, right = segments[pairs[:, 0]], segments[pairs[:, 1]]
    difference = left.true_returns() - right.true_returns()
    mu = (0.5 * (1 + np.sign(difference))).astype(np.float32)
    return Comparisons(np.arange(first_id, first_id + len(pairs)), left, right, mu, np.ones(len(pairs), np.float32))


def taught(segments: Segments, selector: Selector, seed: int, moments: tuple[int, ...]) -> list[dict[str, float]]:
    """r̂ after each moment: how it ranks what comes later, and the whole run."""
    inputs = Inputs(segments.observations.shape[2:], segments.actions.shape[-1], False)
    fitter = Fitter(RewardEnsemble(inputs, FAST.reward, seed), FAST.fit, seed)
    ask = replace(FAST.ask, selector=selector)
    random = np.flatnonzero(segments.policy_steps <= FAST.sac.random_steps)
    pairs = random[random_pairs(np.random.default_rng([seed, 0]), len(random), FIRST)]
    fitter.data = compared(segments, pairs, 1)
    fitter.fit()
    judge = random_pairs(np.random.default_rng([seed, 1]), len(segments), 2_000)
    true = segments.true_returns()
    found = []
    for number, (moment, following) in enumerate(zip(moments, (*moments[1:], STEPS), strict=True)):
        past = np.flatnonzero(segments.policy_steps <= moment)
        rng = np.random.default_rng([seed, 2, number])  # the same candidates for every selector
        some = np.sort(past[rng.permutation(len(past))[: 2 * MORE * ask.oversample]])
        chosen, *_ = select_queries(rng, fitter.ensemble, segments[some], MORE, ask)
        fitter.data = fitter.data.appended(compared(segments, some[chosen], 1 + len(fitter.data)))
        fitter.fit()
        ahead = np.flatnonzero((segments.policy_steps > moment) & (segments.policy_steps <= following))
        both = np.concatenate
        fitter.ensemble.calibrate(
            both([fitter.data.left.observations, fitter.data.right.observations]),
            both([fitter.data.left.actions, fitter.data.right.actions]),
        )
        predicted = fitter.ensemble.reward(segments.observations, segments.actions).sum(1)
        right = (predicted[judge[:, 0]] > predicted[judge[:, 1]]) == (true[judge[:, 0]] > true[judge[:, 1]])
        found.append(
            {
                "labels": float(len(fitter.data)),
                "spearman_ahead": float(spearmanr(predicted[ahead], true[ahead]).statistic),
                "ordered": float(right.mean()),
            }
        )
    return found


def main() -> None:
    """All of it, then the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of one task, to the second moment")
    parser.add_argument("--tasks", nargs="*", default=["cheetah", "reacher"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104])
    options = parser.parse_args()
    one_thread()
    moments: tuple[int, ...] = MOMENTS
    tasks, seeds, steps = options.tasks, options.seeds, STEPS
    if options.quick:
        tasks, seeds, moments, steps = tasks[:1], seeds[:1], MOMENTS[:2], MOMENTS[2]
    rows = []
    for task in tasks:
        for seed in seeds:
            segments = behaviour(task, seed, steps)
            for selector in SELECTORS:
                for found in taught(segments, selector, seed, moments):
                    rows.append({"task": task, "seed": seed, "selector": selector, **found})
            print(task, seed, flush=True)
    if not options.quick:
        with OUT.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    figures = {}
    for task in tasks:
        for selector in SELECTORS:
            mine = [row for row in rows if (row["task"], row["selector"]) == (task, selector)]
            for name in ("spearman_ahead", "ordered"):
                figures[f"{task}_{selector}_{name}"] = round(float(np.mean([float(row[name]) for row in mine])), 3)
            print(
                f"{task:12} {selector:12}", *(figures[f"{task}_{selector}_{n}"] for n in ("spearman_ahead", "ordered"))
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
