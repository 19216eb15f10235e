"""A tuner that goes on from a checkpoint is the tuner that never stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.lm.models import ModelError, arrays, load
from backflip.lm.reward import as_segments
from backflip.lm.tune import Tuner
from backflip.segments import Array
from backflip.texts import unpack_text
from backflip.tuning import TuneConfig

SMALL: dict[str, Any] = {"batch_prompts": 2, "completions": 4, "response_tokens": 6, "micro_batch": 3, "minibatches": 2}
PROMPTS = ["This film", "I watched it last night and"]


def _tuner(folder: Path, **changes: Any) -> Tuner:
    torch.manual_seed(0)  # adapters are drawn from it
    return Tuner(load(str(folder)), TuneConfig(**{**SMALL, **changes}))


def _go_on(tuner: Tuner, batches: int) -> list[dict[str, float]]:
    found = []
    for _ in range(batches):
        sampled = tuner.sample(PROMPTS, 4, (tuner.completions,))
        rewards = np.array([len(text.completion) for text in sampled.texts], np.float32)
        found.append(tuner.learn(sampled, rewards))
    return found


def _all(tuner: Tuner) -> dict[str, Array]:
    return {**arrays(tuner.policy), **{name: head.detach().numpy() for name, head in tuner.learner.heads().items()}}


@pytest.mark.parametrize(
    ("algorithm", "rank"),
    [("ppo", 0), *(pytest.param(*both, marks=pytest.mark.slow) for both in (("rloo", 0), ("rloo", 4), ("ppo", 4)))],
)
def test_two_batches_a_checkpoint_and_two_more_are_four_batches_to_the_bit(
    miniature_folder: Path, tmp_path: Path, algorithm: Any, rank: int
) -> None:
    whole = _tuner(miniature_folder, algorithm=algorithm, lora_rank=rank)
    expected = _go_on(whole, 4)
    begun = _tuner(miniature_folder, algorithm=algorithm, lora_rank=rank)
    _go_on(begun, 2)
    begun.save(tmp_path)
    resumed = _tuner(miniature_folder, algorithm=algorithm, lora_rank=rank)
    resumed.load(tmp_path)
    assert _go_on(resumed, 2) == expected[2:]
    assert (resumed.completions, resumed.batches) == (32, 4)
    assert all(np.array_equal(value, _all(resumed)[name]) for name, value in _all(whole).items())


def test_a_checkpoint_of_another_model_is_refused(miniature_folder: Path, letters: Any, tmp_path: Path) -> None:
    other = Tuner(letters, TuneConfig(**SMALL))
    other.save(tmp_path)
    with pytest.raises(ModelError, match=r"was tuned from another model: .* give the model it began with"):
        _tuner(miniature_folder).load(tmp_path)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_checkpoint_of_another_model_of_the_same_shape_is_refused(
    miniature: Any, miniature_folder: Path, tmp_path: Path, rank: int
) -> None:
    """Its KL would silently be to the wrong original."""
    _tuner(miniature_folder, lora_rank=rank).save(tmp_path)
    with torch.no_grad():
        miniature.model.model.norm.weight.mul_(1.01)
    other = Tuner(miniature, TuneConfig(**SMALL, lora_rank=rank))
    with pytest.raises(ModelError, match=r"was tuned from another model than .* is now; give the model it began with"):
        other.load(tmp_path)


def test_the_first_batch_is_the_originals_own_and_costs_no_nats(miniature_folder: Path) -> None:
    first, second = _go_on(_tuner(miniature_folder, learning_rate=1e-2), 2)
    assert first["act/kl_exact"] == 0
    assert [first["act/kl_k1"], first["act/kl_k3"]] == pytest.approx(
        [0, 0], abs=1e-5
    )  # drawn in steps, then read whole
    assert second["act/kl_exact"] > 0


def test_a_batch_in_small_parts_is_learned_from_as_a_whole(miniature_folder: Path) -> None:
    """Gradients are the same; Adam divides them by themselves, so that some weights show rounding more than others."""
    for algorithm in ("rloo", "ppo"):
        found = []
        for size in (3, 64):
            tuner = _tuner(miniature_folder, algorithm=algorithm, micro_batch=size, epochs=1, minibatches=1)
            sampled = _tuner(miniature_folder).sample(PROMPTS, 4, (0,))
            found.append(tuner.learn(sampled, np.arange(8, dtype=np.float32))["act/gradient_norm"])
        assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_long_prompt_loses_its_beginning_and_an_empty_one_begins_with_an_end(miniature_folder: Path) -> None:
    tuner = _tuner(miniature_folder, prompt_tokens=5)
    assert tuner.tokens("very " * 50 + "This film") == tuner.causal.tokens("very " * 50 + "This film")[-5:]
    assert tuner.tokens("") == [tuner.causal.end]


@pytest.mark.parametrize("reads", ["completion", "tokens"])
def test_completions_become_segments_with_their_text_and_their_gold(miniature_folder: Path, reads: Any) -> None:
    tuner = _tuner(miniature_folder, reads=reads)
    sampled = tuner.sample(PROMPTS, 4, (0,))
    gold = np.arange(8, dtype=np.float32)
    segments = as_segments(sampled.texts, sampled.read, gold, tuner.config, 64)
    assert segments.true_returns() == pytest.approx(gold)
    assert segments.states is not None
    assert [unpack_text(states) for states in segments.states] == sampled.texts
    assert segments.observations.shape == (8, 6 if reads == "tokens" else 1, 64)
    unknown = as_segments(sampled.texts, sampled.read, None, tuner.config, 64)
    assert np.isnan(unknown.true_rewards).all()


@pytest.mark.parametrize(
    ("algorithm", "rank"),
    [("rloo", 0), *(pytest.param(*both, marks=pytest.mark.slow) for both in (("rloo", 4), ("ppo", 0), ("ppo", 4)))],
)
def test_what_is_paid_becomes_more_frequent(letters: Any, algorithm: Any, rank: int) -> None:
    """A completion of three letters is worth its a's; a fifth of all tokens at first."""
    torch.manual_seed(0)
    config = TuneConfig(
        algorithm=algorithm, lora_rank=rank, batch_prompts=2, completions=16, response_tokens=3, learning_rate=1e-2,
        controller="fixed", beta=0.05,
    )  # fmt: skip
    tuner = Tuner(letters, config)

    def paid(key: int) -> float:
        sampled = tuner.sample(["ab", "d"], 16, (key,))
        rewards = np.array([text.completion.count("a") for text in sampled.texts], np.float32)
        tuner.learn(sampled, rewards)
        return float(rewards.mean())

    found = [paid(key) for key in range(60)]
    assert found[0] < 1
    assert np.mean(found[-5:]) > 2.2
