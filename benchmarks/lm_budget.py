"""Does KL stay where it should? The three controllers, over seeds.

    python benchmarks/lm_budget.py
    python benchmarks/lm_budget.py --quick

The model `tiny`, the task sentiment, paid by VADER itself, 250 batches of 64 completions. For each controller: mean
KL from batch 100 on, and the least and largest mean of twenty batches in a row there, in nats a completion. The budget
is 6 nats, and 10 % is what it may miss it by. The last line is a JSON object.
"""

import argparse
import json
import statistics

import numpy as np

from backflip.lm.small import find
from backflip.lm.tasks import sentiment, text_task
from backflip.lm.tune import Tuner
from backflip.loop import one_thread
from backflip.tuning import Controller, TuneConfig

WINDOW = 20
TARGET = 6.0


def kl_of(controller: Controller, seed: int, batches: int) -> tuple[list[float], float]:
    """KL of every batch, and VADER's mean score in the last twenty."""
    beta = 0.03 if controller == "fixed" else 0.1
    config = TuneConfig(model="tiny", controller=controller, kl_target=TARGET, beta=beta)
    tuner = Tuner(find("tiny"), config, seed)
    prompts = text_task("sentiment").prompts()
    first = sentiment(tuner.sample(prompts[:128], 2, (seed, 8)).texts)
    kl, scores = [], []
    for i in range(batches):
        rng = np.random.default_rng([seed, 5, i])
        chosen = [prompts[j] for j in rng.choice(len(prompts), config.batch_prompts, replace=False)]
        sampled = tuner.sample(chosen, config.completions, (seed, 6, i))
        gold = sentiment(sampled.texts)
        tuner.learn(sampled, ((gold - first.mean()) / first.std()).astype(np.float32))
        kl.append(sampled.exact_kl)
        scores.append(float(gold.mean()))
    return kl, statistics.fmean(scores[-WINDOW:])


def main() -> None:
    """Every controller over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the budget once, 130 batches")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--others", type=int, default=2, help="seeds of the controllers beside the budget")
    args = parser.parse_args()
    one_thread()
    batches = 250
    controllers: tuple[Controller, ...] = ("budget", "ziegler", "fixed")
    if args.quick:
        batches, args.seeds, controllers = 130, 1, ("budget",)
    figures: dict[str, dict[str, float]] = {}
    for name in controllers:
        lowest, highest, means, golds = [], [], [], []
        for seed in range(args.seeds if name == "budget" else args.others):
            kl, gold = kl_of(name, seed, batches)
            late = np.convolve(kl[100:], np.ones(WINDOW) / WINDOW, "valid")
            lowest.append(float(late.min()))
            highest.append(float(late.max()))
            means.append(statistics.fmean(kl[100:]))
            golds.append(gold)
            between = f"[{lowest[-1]:.2f}, {highest[-1]:.2f}]"
            print(f"{name:<8} seed {seed}: {means[-1]:.2f} {between}, VADER {gold:.3f}", flush=True)
        figures[name] = {
            "seeds": len(means),
            "kl": round(statistics.fmean(means), 2),
            "lowest": round(min(lowest), 2),
            "highest": round(max(highest), 2),
            "gold": round(statistics.fmean(golds), 3),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
