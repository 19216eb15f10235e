"""How good does a language model become by so many labels? The stand-in's score at a budget of KL.

    python benchmarks/lm_labels.py --trl-python PYTHON    # 50 to 800 labels, three ways, 5 seeds: hours
    python benchmarks/lm_labels.py --labels 50 200 --seeds 0 1 2
    python benchmarks/lm_labels.py --quick

The model `tiny` is tuned on the task sentiment at 6 nats; the teacher is VADER, with 10 % of its answers flipped. Arms:
`variance` (the ensemble, asked by its variance while the policy learns), `uniform` (the same, asked at random), `trl`
(one reward model that TRL's RewardTrainer fits once, offline, to as many labels about the original's completions; ties
it cannot use; our policy is then tuned on it; needs the python of an environment with trl 1.16 and datasets), `gold`
(paid by VADER itself, no labels). Score: mean of VADER's compound over the last fifth of the completions. Runs that are
in the table already are not run again. The last line is a JSON object.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from backflip.api import go_on, start
from backflip.experiments import settings_for
from backflip.lm.small import find
from backflip.lm.tasks import sentiment, text_task
from backflip.lm.tune import Tuner
from backflip.loop import one_thread
from backflip.settings import Settings
from backflip.texts import Text
from backflip.tuning import TuneConfig

TABLE = Path(__file__).parent / "results" / "lm_labels.csv"
ARMS = ("variance", "uniform", "trl")
MISTAKES = 0.1
Pay = Callable[[list[Text]], Float[np.ndarray, " n"]]
"""A number for each completion."""
FIELDS = ["arm", "labels", "completions", "seed", "gold", "kl", "cpu_seconds"]


def settings(arm: str, labels: int, completions: int, seed: int) -> Settings:
    """A run's settings."""
    plain = settings_for(
        "sentiment", teacher="mistake", labels=labels, steps=completions, seed=seed, tune=TuneConfig(model="tiny")
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


def tuned(tuner: Tuner, pay: Pay, completions: int, seed: int) -> tuple[float, float]:
    """Score and KL of a policy that a fixed reward pays, normalised on the original's completions."""
    config, prompts = tuner.config, text_task("sentiment").prompts()
    first = pay(tuner.sample(prompts[: config.original_samples // 2], 2, (seed, 8)).texts)
    scores, kl = [], []
    for i in range(completions // config.batch):
        rng = np.random.default_rng([seed, 5, i])
        chosen = [prompts[j] for j in rng.choice(len(prompts), config.batch_prompts, replace=False)]
        sampled = tuner.sample(chosen, config.completions, (seed, 6, i))
        tuner.learn(sampled, ((pay(sampled.texts) - first.mean()) / first.std()).astype(np.float32))
        scores.append(float(sentiment(sampled.texts).mean()))
        kl.append(sampled.exact_kl)
    last = -max(1, len(scores) // 5)
    return statistics.fmean(scores[last:]), statistics.fmean(kl[last:])


def compared(tuner: Tuner, labels: int, seed: int) -> list[dict[str, str]]:
    """Pairs of the original's completions that the teacher told apart, of so many that it saw, as TRL wants them."""
    rng = np.random.default_rng([seed, 1])
    prompts = text_task("sentiment").prompts()
    sampled = tuner.sample([prompts[i] for i in rng.integers(len(prompts), size=labels)], 2, (seed, 1))
    gold = sentiment(sampled.texts)
    better = np.where(rng.random(labels) < MISTAKES, gold[::2] < gold[1::2], gold[::2] > gold[1::2])
    return [
        {
            "prompt": left.prompt,
            "chosen": (left if first else right).completion,
            "rejected": (right if first else left).completion,
        }
        for left, right, first, tie in zip(
            sampled.texts[::2], sampled.texts[1::2], better, gold[::2] == gold[1::2], strict=True
        )
        if not tie
    ]


def fitted_by_trl(tuner: Tuner, labels: int, seed: int, python: str, work: Path) -> Pay:
    """The reward model that TRL makes of so many labels; it reads a text as TRL has trained it to, with its end."""
    from transformers import AutoModelForSequenceClassification

    tuner.original.model.save_pretrained(work / "model")
    tuner.original.tokenizer.save_pretrained(work / "model")
    (work / "pairs.json").write_text(json.dumps(compared(tuner, labels, seed)))
    script = Path(__file__).parent / "trl" / "reward.py"
    command = [python, str(script), str(work / "model"), str(work / "pairs.json"), str(work / "reward")]
    subprocess.run([*command, "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
    model: Any = AutoModelForSequenceClassification.from_pretrained(work / "reward").eval()
    tokenizer = tuner.original.tokenizer

    @torch.no_grad()
    def pay(texts: list[Text]) -> Float[np.ndarray, " n"]:
        rows = [text.prompt + text.completion + tokenizer.eos_token for text in texts]
        tokens = tokenizer(rows, return_tensors="pt", padding=True)
        scores: Float[np.ndarray, " n"] = model(**tokens).logits[:, 0].numpy().astype(np.float64)
        return scores

    return pay


def scored(arm: str, labels: int, completions: int, seed: int, python: str | None) -> tuple[float, float]:
    """Score and KL of a run."""
    if arm not in ("gold", "trl"):
        return taught(arm, labels, completions, seed)
    tuner = Tuner(find("tiny"), TuneConfig(model="tiny"), seed)
    if arm == "gold":
        return tuned(tuner, sentiment, completions, seed)
    assert python is not None
    with tempfile.TemporaryDirectory() as work:
        return tuned(tuner, fitted_by_trl(tuner, labels, seed, python, Path(work)), completions, seed)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 labels, one seed, few completions")
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 100, 200, 400, 800])
    parser.add_argument("--arms", nargs="*", default=[*ARMS, "gold"])
    parser.add_argument("--trl-python", help="python of an environment with trl 1.16 and datasets, for the arm trl")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--completions", type=int, default=16_000)
    args = parser.parse_args()
    if args.quick:
        args.labels, args.seeds, args.completions = [50], [0], 3_000
    if args.trl_python is None and "trl" in args.arms:
        print("the arm trl is left out: it needs --trl-python")
        args.arms.remove("trl")
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
                gold, kl = scored(*key, args.trl_python)
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
