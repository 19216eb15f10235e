"""How well does r̂ order sentences as people rated them, by who chooses what is asked?

    python benchmarks/lm_human.py --ratings hutto_ICWSM_2014 --encoder FOLDER
    python benchmarks/lm_human.py --ratings hutto_ICWSM_2014 --encoder FOLDER --quick

The ratings are those of the source package of vaderSentiment 3.3.2 (MIT): 10,605 sentences of film reviews, each rated
by some twenty people. Every label compares what one of them, drawn at random, gave to either sentence: real noise. The
encoder is a frozen all-MiniLM-L6-v2. 40 labels at random, then 40 at a time by a selector from 2,000 random candidate
pairs, up to 440. Accuracy: share of 4,000 pairs of sentences never asked about whose mean ratings differ that r̂ orders
as the means do. The last line is a JSON object.
"""

import argparse
import csv
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from backflip.experiments import TEXT
from backflip.fit import Fitter
from backflip.lm.models import load_encoder
from backflip.loop import one_thread
from backflip.preferences import Changes, Comparisons
from backflip.queries import Selector, random_pairs, select_queries
from backflip.reward import Inputs, RewardEnsemble
from backflip.segments import Array, Segments

OUT = Path(__file__).parent / "results" / "lm_human.csv"
SELECTORS: tuple[Selector, ...] = ("uniform", "variance", "entropy", "information", "diverse")
FIRST, SESSION, LABELS, CANDIDATES, TEST = 40, 40, 440, 2000, 4000


def read(folder: Path) -> tuple[list[str], list[Array]]:
    """Sentences, and what people gave to each."""
    with (folder / "movieReviewSnippets_GroundTruth.txt").open(encoding="utf-8", errors="replace") as file:
        texts = {line.split("\t", 2)[0]: line.rstrip("\n").split("\t", 2)[2] for line in file}
    with (folder / "movieReviewSnippets_anonDataRatings.txt").open(encoding="utf-8", errors="replace") as file:
        given = {row[0]: np.array(json.loads(row[3]), float) for row in csv.reader(file, delimiter="\t")}
    names = [name for name in texts if name in given]
    return [texts[name] for name in names], [given[name] for name in names]


def features(source: str, texts: list[str]) -> Array:
    """The encoder's mean states of every sentence."""
    import torch

    model, tokenizer = load_encoder(source)
    order = np.argsort([len(text) for text in texts])
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    with torch.no_grad():
        for i in range(0, len(order), 64):
            some = order[i : i + 64]
            tokens = tokenizer([texts[j] for j in some], padding=True, truncation=True, return_tensors="pt")
            states = model(**tokens).last_hidden_state
            weight = tokens["attention_mask"][..., None].float()
            found[some] = ((states * weight).sum(1) / weight.sum(1)).numpy()
    return found


def segments_of(found: Array, ids: Array) -> Segments:
    """Sentences as segments of one step."""
    n = len(ids)
    return Segments(
        ids=ids.astype(np.int64),
        observations=found[ids][:, None].astype(np.float32),
        actions=np.zeros((n, 1, 0), np.float32),
        true_rewards=np.full((n, 1), np.nan, np.float32),
        states=np.zeros((n, 1, 0), np.float32),
        policy_steps=np.zeros(n, np.int64),
        lengths=np.ones(n, np.int64),
    )


def accuracies(found: Array, given: list[Array], selector: Selector, seed: int) -> list[tuple[int, float]]:
    """Labels and accuracy after each session."""
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(found))
    test, pool = order[: len(found) // 4], order[len(found) // 4 :]
    means = np.array([ratings.mean() for ratings in given])
    pairs = random_pairs(rng, len(test), TEST)
    left, right = test[pairs[:, 0]], test[pairs[:, 1]]
    decided = means[left] != means[right]
    left, right = left[decided], right[decided]
    ensemble = RewardEnsemble(Inputs((found.shape[1],), 0, discrete=False), TEXT.reward, seed)
    fitter = Fitter(ensemble, TEXT.fit, seed)
    curve, asked = [], 0
    while asked < LABELS:
        count = FIRST if asked == 0 else SESSION
        candidates = segments_of(found, rng.choice(pool, 2 * CANDIDATES, replace=False))
        config = replace(TEXT.ask, selector=selector if asked else "uniform", oversample=CANDIDATES // count)
        chosen, _, _ = select_queries(rng, ensemble if asked else None, candidates, count, config)
        one, other = candidates.ids[chosen[:, 0]], candidates.ids[chosen[:, 1]]
        scores = np.array([[rng.choice(given[i]), rng.choice(given[j])] for i, j in zip(one, other, strict=True)])
        mu = np.where(scores[:, 0] > scores[:, 1], 1.0, np.where(scores[:, 0] < scores[:, 1], 0.0, 0.5))
        new = Comparisons(
            np.arange(asked, asked + count, dtype=np.int64),
            segments_of(found, one),
            segments_of(found, other),
            mu.astype(np.float32),
            np.ones(count, np.float32),
        )
        fitter.absorb(Changes(new.query_ids, new, asked + count))
        fitter.fit()
        asked += count
        actions = np.zeros((len(found), 1, 0), np.float32)
        rewards = ensemble.raw(found[:, None], actions).mean(0)[:, 0].numpy()
        right_order = (rewards[left] > rewards[right]) == (means[left] > means[right])
        curve.append((asked, float(right_order.mean())))
    return curve


def main() -> None:
    """Every selector over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=Path, required=True, help="the folder hutto_ICWSM_2014 of the source package")
    parser.add_argument("--encoder", required=True, help="a folder with all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="2,000 sentences, one seed, two selectors")
    args = parser.parse_args()
    one_thread()
    texts, given = read(args.ratings)
    selectors = SELECTORS
    if args.quick:
        texts, given, args.seeds, selectors = texts[:4200], given[:4200], 1, SELECTORS[:2]
    begun = time.process_time()
    found = features(args.encoder, texts)
    print(f"{len(texts)} sentences read in {time.process_time() - begun:.0f} s of a core", flush=True)
    rows, figures = [], {}
    for selector in selectors:
        curves = []
        for seed in range(args.seeds):
            curve = accuracies(found, given, selector, seed)
            rows += [(selector, seed, labels, round(value, 4)) for labels, value in curve]
            curves.append([value for _, value in curve])
        last = [curve[-1] for curve in curves]
        error = statistics.stdev(last) / len(last) ** 0.5 if len(last) > 1 else 0.0
        half = statistics.fmean(curve[len(curve) // 2] for curve in curves)
        figures[selector] = {
            "at_240": round(half, 4),
            "at_440": round(statistics.fmean(last), 4),
            "error": round(error, 4),
        }
        print(f"{selector:<12} {figures[selector]}", flush=True)
    if not args.quick:
        with OUT.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("selector", "seed", "labels", "accuracy"), *rows])
    print(json.dumps({"accuracy": figures}))


if __name__ == "__main__":
    main()
