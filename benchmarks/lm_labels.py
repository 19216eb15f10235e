"""How good does a language model become by so many labels? The stand-in's score at a budget of KL.

    python benchmarks/lm_labels.py                        # 50 to 800 labels, three ways, 5 seeds: hours
    python benchmarks/lm_labels.py --labels 50 200 --seeds 0 1 2
    python benchmarks/lm_labels.py --quick

The model `tiny` is tuned on the task sentiment at 6 nats; the teacher is VADER, with 10 % of its answers flipped. Arms:
`variance` (the ensemble, asked by its variance), `uniform` (the ensemble, asked at random), `single` (one member, all
labels about the original's completions before tuning begins: as elsewhere), `gold` (paid by VADER itself, no
labels). Score: mean of VADER's compound over the last fifth of the completions. Runs that are in the table already are
not run again. The last line is a JSON object.
"""

import argparse
import csv
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backflip.api import go_on, start
from backflip.experiments import settings_for
from backflip.lm.small import find
from backflip.lm.tasks import sentiment, text_task
from backflip.lm.tune import Tuner
from backflip.loop import one_thread
from backflip.settings import Settings
from backflip.tuning import TuneConfig

TABLE = Path(__file__).parent / "results" / "lm_labels.csv"
ARMS = ("variance", "uniform", "single")
FIELDS = ["arm", "labels", "completions", "seed", "gold", "kl", "cpu_seconds"]


def settings(arm: str, labels: int, completions: int, seed: int) -> Settings:
    """A run's settings."""
    plain = settings_for(
        "sentiment", teacher="mistake", labels=labels, steps=completions, seed=seed, tune=TuneConfig(model="tiny")
    )
    if arm == "single":
        return replace(
            plain, reward=replace(plain.reward, members=1, prior=0.0), ask=replace(plain.ask, initial_fraction=1.0)
        )
    return replace(plain, ask=replace(plain.ask, selector="variance" if arm == "variance" else "uniform"))


def taught(arm: str, labels: int, completions: int, seed: int) -> tuple[float, float]:
    """Score and KL of a run."""
    folder = Path(tempfile.mkdtemp())
    try:
        run = start(settings(arm, labels, completions, seed), folder / "run")
        go_on(run)
        values: dict[str, list[float]] = {}
        for line in run.metrics()[0]:
            if line["step"] >= 0.8 * completions:
                values.setdefault(line["name"], []).append(line["value"])
        return statistics.fmean(values["act/true_return"]), statistics.fmean(values["act/kl_exact"])
    finally:
        shutil.rmtree(folder)


def paid_by_gold(completions: int, seed: int) -> tuple[float, float]:
    """Score and KL where VADER itself pays."""
    config = TuneConfig(model="tiny")
    tuner = Tuner(find("tiny"), config, seed)
    prompts = text_task("sentiment").prompts()
    first = sentiment(tuner.sample(prompts[:128], 2, (seed, 8)).texts)
    scores, kl = [], []
    for i in range(completions // config.batch):
        rng = np.random.default_rng([seed, 5, i])
        chosen = [prompts[j] for j in rng.choice(len(prompts), config.batch_prompts, replace=False)]
        sampled = tuner.sample(chosen, config.completions, (seed, 6, i))
        gold = sentiment(sampled.texts)
        tuner.learn(sampled, ((gold - first.mean()) / first.std()).astype(np.float32))
        scores.append(float(gold.mean()))
        kl.append(sampled.exact_kl)
    last = -max(1, len(scores) // 5)
    return statistics.fmean(scores[last:]), statistics.fmean(kl[last:])


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 labels, one seed, few completions")
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 100, 200, 400, 800])
    parser.add_argument("--arms", nargs="*", default=[*ARMS, "gold"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--completions", type=int, default=16_000)
    args = parser.parse_args()
    if args.quick:
        args.labels, args.seeds, args.completions = [50], [0], 3_000
    one_thread()
    rows = list(csv.DictReader(TABLE.open())) if TABLE.exists() and not args.quick else []
    done = {(row["arm"], int(row["labels"]), int(row["completions"]), int(row["seed"])) for row in rows}
    for seed in args.seeds:
        for arm in args.arms:
            for labels in [0] if arm == "gold" else args.labels:
                key = (arm, labels, args.completions, seed)
                if key in done:
                    continue
                begun = time.process_time()
                gold, kl = paid_by_gold(args.completions, seed) if arm == "gold" else taught(*key)
                seconds = time.process_time() - begun
                row: dict[str, Any] = dict(
                    zip(FIELDS, [*key, round(gold, 4), round(kl, 3), round(seconds, 1)], strict=True)
                )
                rows.append(row)
                print(row, flush=True)
                if not args.quick:
                    with TABLE.open("w", newline="") as file:
                        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)
    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        name = f"{row['arm']}/{row['labels']}/{row['completions']}"
        same = [r for r in rows if f"{r['arm']}/{r['labels']}/{r['completions']}" == name]
        figures[name] = {
            "seeds": len(same),
            "gold": round(statistics.fmean(float(r["gold"]) for r in same), 3),
            "kl": round(statistics.fmean(float(r["kl"]) for r in same), 2),
        }
    for name, found in sorted(figures.items()):
        print(f"{name:<28} {found}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
