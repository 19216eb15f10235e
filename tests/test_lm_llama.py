"""A Llama computed leaner gives what transformers gives, forwards and backwards."""

import importlib
from typing import Any

import pytest
import torch

from backflip.lm.llama import Decoder, Llama, is_llama, normed
from backflip.lm.models import adapted
from backflip.lm.passes import Batch, by_transformers, forward, log_p_of, log_probabilities
from backflip.lm.sampling import Cached, Transformers, drawn, padded

PROMPTS = [[5, 6, 7, 8], [9], [3, 4]]
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared keys": {"num_key_value_heads": 2},
    "long head": {"head_dim": 10, "tie_word_embeddings": True},
    "stretched": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8,
        }
    },
    "biased": {"attention_bias": True, "mlp_bias": True},
}  # fmt: skip


def _model(seed: int = 0, **shape: Any) -> Any:
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(seed)
    config = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**config, num_attention_heads=4, initializer_range=0.3, **shape)
    ).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)
    return model


def _batch(each: int = 2, tokens: int = 5) -> Batch:
    prompts, mask = (part.repeat_interleave(each, 0) for part in padded(PROMPTS, 0))
    generator = torch.Generator().manual_seed(1)
    responses = torch.randint(1, 40, (len(prompts), tokens), generator=generator)
    counts = torch.ones(len(prompts), tokens)
    counts[0, 3:] = 0
    return Batch(prompts, mask, responses, counts, each)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_is_read_of_completions_is_as_transformers_has_it(shape: str) -> None:
    model = _model(**SHAPES[shape])
    assert is_llama(model)
    for batch in (_batch(), _batch(3, 1), _batch(1, 2), _batch()[1:4]):
        with torch.no_grad():
            found, wanted = forward(model, batch, hidden=True), by_transformers(model, batch, hidden=True)
            short = forward(model, batch).logits
        counts = batch.mask > 0
        torch.testing.assert_close(short[counts], wanted.logits[counts], atol=1e-4, rtol=1e-4)
        for name in ("logits", "before", "after", "embedded"):
            ours, theirs = getattr(found, name), getattr(wanted, name)
            torch.testing.assert_close(ours[counts], theirs[counts], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_as_transformers_has_them(shape: str) -> None:
    model, batch = _model(**SHAPES[shape]), _batch()
    found = []
    for passes in (forward, by_transformers):
        log_p, _ = log_probabilities(passes(model, batch).logits, batch.responses, 0.7)
        loss = (log_p * batch.mask * torch.arange(len(batch))[:, None]).sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_token_by_token_it_is_as_transformers_has_it(shape: str) -> None:
    model, batch = _model(**SHAPES[shape]), _batch()
    prompts, mask = padded(PROMPTS, 0)
    lean, plain = Decoder(model), Cached(model)
    with torch.no_grad():
        pairs = [(lean.begin(prompts, mask, 2, 5), plain.begin(prompts, mask, 2, 5))]
        for t in range(4):
            tokens = batch.responses[:, t : t + 1]
            pairs.append((lean.step(tokens), plain.step(tokens)))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_adapters_count_and_can_be_switched_off() -> None:
    batch = _batch()
    with torch.no_grad():
        base = forward(_model(), batch).logits
        policy = adapted(_model(), 4)
        assert is_llama(policy)
        torch.testing.assert_close(forward(policy, batch).logits, base)
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
        moved = forward(policy, batch).logits
        counts = batch.mask > 0
        assert (moved - base)[counts].abs().max() > 0.1
        torch.testing.assert_close(moved[counts], by_transformers(policy, batch).logits[counts], atol=1e-3, rtol=1e-3)
        with policy.disable_adapter():
            torch.testing.assert_close(forward(policy, batch).logits, base)


def test_other_models_and_turns_that_grow_with_the_text_are_left_to_transformers() -> None:
    transformers: Any = importlib.import_module("transformers")
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2}
    assert not is_llama(transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)))
    assert not is_llama(_model(hidden_act="gelu"))
    growing = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert not is_llama(_model(rope_parameters=growing))


def test_a_model_of_another_kind_is_sampled_and_read_too() -> None:
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    batch, log_p = Transformers(model, 0, 5, 1.0).sample(PROMPTS, 2, (1,))
    with torch.no_grad():
        again, _ = log_probabilities(forward(model, batch).logits, batch.responses, 1.0)
    torch.testing.assert_close(log_p, again * batch.mask, atol=1e-5, rtol=1e-5)


def test_normalising_has_the_gradient_of_its_formula() -> None:
    x = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # 3, 4: mean square 12.5
    assert normed(torch.tensor([3.0, 4.0]), 0.0).tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5])
    assert torch.autograd.gradcheck(lambda y: normed(y, 1e-5), (x,))
    assert normed(torch.zeros(2, 3), 1e-5).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_log_p_to_learn_from_has_the_gradient_of_its_formula() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    responses, weight = torch.tensor([[0, 4, 2], [1, 1, 3]]), torch.arange(6.0).reshape(2, 3)
    expected, _ = log_probabilities(logits, responses, 0.5)
    found = log_p_of(logits, responses, 0.5)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weight).sum(), logits)[0]
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), logits)[0])


def test_a_chance_draws_the_token_in_whose_share_it_lies() -> None:
    # Shares [0, .25), nothing, [.25, 1): a token without probability is never drawn, whatever the chance.
    log_p = torch.tensor([[0.25, 0.0, 0.75]]).log().expand(4, 3)
    chances = torch.tensor([[0.0], [0.2499], [0.2501], [1 - 2**-24]])
    assert drawn(log_p, chances).tolist() == [[0], [0], [2], [2]]
    none_at_first = torch.tensor([[0.0, 1.0, 0.0]]).log()
    assert drawn(none_at_first, torch.tensor([[0.0]])).tolist() == [[1]]
    assert drawn(none_at_first, torch.tensor([[1 - 2**-24]])).tolist() == [[1]]


def test_weights_are_read_anew_at_each_pass() -> None:
    model, batch = _model(), _batch()
    with torch.no_grad():
        before = forward(model, batch).logits
        model.model.layers[0].self_attn.q_proj.weight.mul_(2)
        assert (forward(model, batch).logits - before).abs().max() > 1e-3
    assert Llama(model).size == 8
