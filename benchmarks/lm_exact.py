"""How near does tuning come to the best policy there is, and are reported nats true? A case that can be written down.

    python benchmarks/lm_exact.py [--quick] [--seeds 0] [--batches 400]

A tiny model of four letters and an end completes two prompts with up to three letters: 85 completions of each, whose
probabilities are all computed. Each is worth a random number, the same all along. At a price β of a nat the best policy
is π* ∝ ρ·exp(r/β); over all β these are the frontier: nothing is worth more at its KL. `frontier_fraction` is the
policy's gain over the original at its true KL, as a share of the frontier's there (the least of all runs); `kl_error`
is the largest relative error of the KL that tuning reports, exact along the way or k1, averaged over many completions,
against the KL by enumeration. The last line is a JSON object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import importlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from backflip.lm.kl import k1
from backflip.lm.models import Causal
from backflip.lm.passes import Batch, forward, log_probabilities
from backflip.lm.small import END
from backflip.lm.tune import Tuner
from backflip.loop import one_thread
from backflip.segments import Array
from backflip.tuning import TuneConfig

LETTERS = "abcd"
PROMPTS = ["ab", "dca"]
TOKENS = 3
EACH = 256
"""Completions of each prompt in a batch; with 64, RLOO settled on the second best one where a nat is cheap."""
BETAS = (0.75, 0.5, 0.25)
JUDGED = 16
"""Batches of 8,192 completions on which reported KL is averaged."""


def letters_model(seed: int) -> Causal:
    """An untrained model that writes letters, some rather than others."""
    transformers: Any = importlib.import_module("transformers")
    tokenizers: Any = importlib.import_module("tokenizers")
    words = {END: 0, **{letter: i + 1 for i, letter in enumerate(LETTERS)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=END))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    torch.manual_seed(seed)
    shape = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=48, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.1, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)
    return Causal(transformers.LlamaForCausalLM(shape).eval(), tokenizer, "letters")


@dataclass(frozen=True)
class Case:
    """All completions of all prompts, and what each is worth."""

    batch: Batch
    worth: Array
    """[prompts completions]"""

    def paid(self, responses: Array) -> Array:
        """What sampled completions are worth; those of a prompt lie side by side."""
        every = number(self.batch.responses[: self.worth.shape[1]].numpy())
        place = {name: i for i, name in enumerate(every.tolist())}
        found = np.array([place[name] for name in number(responses).tolist()])
        prompts = np.repeat(np.arange(len(PROMPTS)), len(responses) // len(PROMPTS))
        paid: Array = self.worth[prompts, found].astype(np.float32)
        return paid

    def probabilities(self, model: Any, temperature: float) -> Array:
        """log p of every completion [prompts completions]; they sum to 1."""
        with torch.no_grad():
            logits = forward(model, self.batch).logits
            log_p, _ = log_probabilities(logits, self.batch.responses, temperature)
        whole = (log_p.double() * self.batch.mask).sum(1).reshape(self.worth.shape).numpy()
        assert np.allclose(np.exp(whole).sum(1), 1, atol=1e-4)
        return np.asarray(whole - np.log(np.exp(whole).sum(1, keepdims=True)))


def number(responses: Array) -> Array:
    """A completion's letters as one number; whatever follows its end is an end as well."""
    size = len(LETTERS) + 1
    return np.asarray(responses @ (size ** np.arange(TOKENS)))


def case(tuner: Tuner, seed: int) -> Case:
    """Every completion, each worth a draw of a standard normal."""
    ways = np.array(list(np.ndindex(*[len(LETTERS) + 1] * TOKENS)))
    ended = (ways == 0).cumsum(1) - (ways == 0) > 0
    kept = torch.from_numpy(ways[~((ways > 0) & ended).any(1)])
    mask = ((kept == 0).long().cumsum(1) - (kept == 0).long() == 0).float()
    tokens = [tuner.tokens(prompt) for prompt in PROMPTS]
    longest = max(map(len, tokens))
    prompts = torch.tensor([[0] * (longest - len(t)) + t for t in tokens]).repeat_interleave(len(kept), 0)
    prompt_mask = torch.tensor([[0.0] * (longest - len(t)) + [1.0] * len(t) for t in tokens])
    batch = Batch(
        prompts, prompt_mask.repeat_interleave(len(kept), 0), kept.repeat(len(tokens), 1), mask.repeat(len(tokens), 1)
    )
    return Case(batch, np.random.default_rng([seed, 1]).normal(size=(len(tokens), len(kept))))


def gain_and_kl(log_p: Array, original: Array, worth: Array) -> tuple[float, float]:
    """What a policy gains over the original, and its KL to it, in the mean over prompts."""
    p = np.exp(log_p)
    return float(((p - np.exp(original)) * worth).sum(1).mean()), float((p * (log_p - original)).sum(1).mean())


def best(original: Array, worth: Array, beta: float) -> Array:
    """log π* of every completion: log ρ + r/β, normalised."""
    tilted = original + worth / beta
    return np.asarray(tilted - np.logaddexp.reduce(tilted, 1, keepdims=True))


def frontier(original: Array, worth: Array, kl: float) -> float:
    """The largest gain at a KL."""

    def missing(log_beta: float) -> float:
        return gain_and_kl(best(original, worth, float(np.exp(log_beta))), original, worth)[1] - kl

    beta = float(np.exp(brentq(missing, np.log(1e-2), np.log(1e3))))
    return gain_and_kl(best(original, worth, beta), original, worth)[0]


def run(algorithm: Any, beta: float, seed: int, batches: int, judged: int) -> dict[str, Any]:
    """Tune once, and compare."""
    config = TuneConfig(
        algorithm=algorithm, batch_prompts=len(PROMPTS), completions=EACH, response_tokens=TOKENS, controller="fixed",
        beta=beta, learning_rate=2e-3, lora_rank=0, micro_batch=8192,
    )  # fmt: skip
    tuner = Tuner(letters_model(seed), config, seed)
    all_of_it = case(tuner, seed)
    original = all_of_it.probabilities(tuner.original.model, config.temperature)
    begun = time.process_time()
    for i in range(batches):
        for group in tuner.learner.adam.param_groups:
            group["lr"] = config.learning_rate * (1 - i / batches)  # noise of the last steps would else stay
        sampled = tuner.sample(PROMPTS, EACH, (seed, i))
        tuner.learn(sampled, all_of_it.paid(sampled.batch.responses.numpy()))
    seconds = time.process_time() - begun
    log_p = all_of_it.probabilities(tuner.policy, config.temperature)
    gain, kl = gain_and_kl(log_p, original, all_of_it.worth)
    many = [tuner.sample(PROMPTS, 4096, (seed, 9, i)) for i in range(judged)]
    exact = float(np.mean([s.exact_kl for s in many]))
    sampled_kl = float(np.mean([float(k1(s.log_p, s.original, s.batch.mask).mean()) for s in many]))
    optimum = gain_and_kl(best(original, all_of_it.worth, beta), original, all_of_it.worth)
    return {
        "algorithm": algorithm,
        "beta": beta,
        "seed": seed,
        "gain": gain,
        "kl": kl,
        "optimum_gain": optimum[0],
        "optimum_kl": optimum[1],
        "fraction": gain / frontier(original, all_of_it.worth, kl),
        "objective": (gain - beta * kl) / (optimum[0] - beta * optimum[1]),
        "error_exact": abs(exact / kl - 1),
        "error_k1": abs(sampled_kl / kl - 1),
        "seconds": seconds,
    }


def main() -> None:
    """Every algorithm at every price."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, one price, fewer batches")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--batches", type=int, default=400)
    options = parser.parse_args()
    one_thread()
    seeds, betas, batches, judged = options.seeds, list(BETAS), options.batches, JUDGED
    if options.quick:
        seeds, betas, batches, judged = seeds[:1], betas[1:2], min(batches, 200), JUDGED // 2
    rows = []
    for algorithm in ("rloo", "ppo"):
        for beta in betas:
            for seed in seeds:
                found = run(algorithm, beta, seed, batches, judged)
                rows.append(found)
                text = " ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
                print(text, flush=True)
    figures: dict[str, float] = {}
    for algorithm in ("rloo", "ppo"):
        mine = [row for row in rows if row["algorithm"] == algorithm]
        figures[f"frontier_fraction_{algorithm}"] = round(min(row["fraction"] for row in mine), 4)
        figures[f"kl_error_{algorithm}"] = round(max(max(r["error_exact"], r["error_k1"]) for r in mine), 4)
    figures["frontier_fraction"] = min(figures[f"frontier_fraction_{name}"] for name in ("rloo", "ppo"))
    figures["kl_error"] = max(figures[f"kl_error_{name}"] for name in ("rloo", "ppo"))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
