"""Models of Llama's kind without what transformers does around each step.

A small model spends most of its time on masks, caches and small operations rather than on products. Here a prompt is
read once, its keys and values go to all of its completions, and the cache of a draw is allocated once. The numbers are
those of transformers, but for rounding.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from backflip.products import linear

Product = Callable[[Tensor], Tensor]
Remember = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a layer's number and its new keys and values, gives all that may be attended to."""


def is_llama(model: Any) -> bool:
    """Whether `Llama` computes this model: all of its modules are Llama's own, adapters aside."""
    inner = _without_adapters(model)
    if type(inner).__name__ != "LlamaForCausalLM" or inner.config.hidden_act != "silu":
        return False
    if type(inner.model.layers[0]).__name__ != "LlamaDecoderLayer":  # spread over processes: only it can gather itself
        return False
    return "dynamic" not in inner.model.rotary_emb.rope_type and "longrope" not in inner.model.rotary_emb.rope_type


def _without_adapters(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def positions(mask: Float[Tensor, "n s"]) -> Int64[Tensor, "n s"]:
    """The position of each token, counted from the first that is not padding."""
    return (mask.long().cumsum(1) - 1).clamp_(min=0)


@dataclass(frozen=True)
class Layer:
    """The products of one layer; each reads what is normalised, and multiplies it by the norm's weights first."""

    qk: Product
    v: Product
    out: Product
    gate: Product
    up: Product
    down: Product


class Llama:
    """A model's weights as they are now, ready for some passes."""

    def __init__(self, model: Any) -> None:
        whole = _without_adapters(model)
        inner, config = whole.model, whole.config
        self.head, self.embed, self.norm = _product([whole.lm_head]), inner.embed_tokens, inner.norm
        self.eps = float(config.rms_norm_eps)
        self.heads, self.key_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.size = int(inner.layers[0].self_attn.head_dim)
        self.inv_freq, self.scale = inner.rotary_emb.inv_freq.float(), float(inner.rotary_emb.attention_scaling)
        self.layers = [
            Layer(
                _product([part.self_attn.q_proj, part.self_attn.k_proj], part.input_layernorm, self.size),
                _product([part.self_attn.v_proj], part.input_layernorm),
                _product([part.self_attn.o_proj]),
                _product([part.mlp.gate_proj], part.post_attention_layernorm),
                _product([part.mlp.up_proj], part.post_attention_layernorm),
                _product([part.mlp.down_proj]),
            )
            for part in inner.layers
        ]

    def turns(self, positions: Int64[Tensor, "n s"]) -> Complex[Tensor, "n s 1 f"]:
        """By how much keys and queries at some positions are turned."""
        angles = positions[..., None].float() * self.inv_freq
        return torch.polar(torch.full_like(angles, self.scale), angles)[:, :, None]

    def states(
        self,
        embedded: Float[Tensor, "n s h"],
        turns: Complex[Tensor, "n s 1 f"],
        costs: Float[Tensor, "n 1 s k"],
        remember: Remember,
    ) -> Float[Tensor, "n s h"]:
        """Last hidden states of some tokens.

        Args:
            costs: 0 where a token may attend, -inf where not.
        """
        n, s, _ = embedded.shape
        x = embedded
        for i, layer in enumerate(self.layers):
            y = normed(x, self.eps)
            turned = torch.view_as_complex(layer.qk(y).view(n, s, -1, self.size // 2, 2)) * turns
            qk = torch.view_as_real(turned).flatten(3).transpose(1, 2)
            q, k = qk[:, : self.heads], qk[:, self.heads :]
            keys, values = remember(i, k, layer.v(y).view(n, s, -1, self.size).transpose(1, 2))
            x = x + layer.out(_attended(q, keys, values, costs).transpose(1, 2).reshape(n, s, -1))
            y = normed(x, self.eps)
            x = x + layer.down(torch.nn.functional.silu(layer.gate(y)) * layer.up(y))
        last: Tensor = normed(x, self.eps) * self.norm.weight
        return last

    def read_prompts(
        self, prompts: Int64[Tensor, "n p"], prompt_mask: Float[Tensor, "n p"]
    ) -> tuple[Float[Tensor, "n h"], list[tuple[Tensor, Tensor]]]:
        """The last hidden state of prompts, and keys and values of each layer."""
        kept: list[tuple[Tensor, Tensor]] = []

        def remember(_: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            kept.append((keys, values))
            return keys, values

        p = prompts.shape[1]
        causal = torch.ones(p, p, dtype=torch.bool).tril()
        seen = causal & (prompt_mask[:, None, None] > 0) | torch.eye(p, dtype=torch.bool)  # padding sees itself
        last = self.states(self.embed(prompts), self.turns(positions(prompt_mask)), _costs(seen), remember)
        return last[:, -1], kept


class Decoder:
    """Completions of prompts, a token after the other."""

    def __init__(self, model: Any) -> None:
        self.llama = Llama(model)

    def begin(
        self, prompts: Int64[Tensor, "n p"], prompt_mask: Float[Tensor, "n p"], each: int, tokens: int
    ) -> Float[Tensor, "m v"]:
        """Logits of the first token of `each` completions of every prompt, of which none has more than `tokens`."""
        llama, p = self.llama, prompts.shape[1]
        last, kept = llama.read_prompts(prompts, prompt_mask)
        n = len(prompts) * each
        self.cache = last.new_empty(len(kept), 2, n, llama.key_heads, p + tokens, llama.size)
        for layer, both in enumerate(kept):
            for which, part in enumerate(both):
                self.cache[layer, which, :, :, :p] = part.repeat_interleave(each, 0)
        self.filled = p
        self.costs = torch.zeros(n, 1, 1, p + tokens)
        self.costs[..., :p] = _costs(prompt_mask > 0).repeat_interleave(each, 0)[:, None, None]
        self.place = positions(prompt_mask)[:, -1:].repeat_interleave(each, 0)
        logits: Tensor = llama.head(last)
        return logits.repeat_interleave(each, 0)

    def step(self, tokens: Int64[Tensor, "m 1"]) -> Float[Tensor, "m v"]:
        """Logits of the tokens after these."""
        llama = self.llama
        self.place = self.place + 1
        costs = self.costs[..., : self.filled + 1]
        last = llama.states(llama.embed(tokens), llama.turns(self.place), costs, self._remember)
        self.filled += 1
        logits: Tensor = llama.head(last[:, 0])
        return logits

    def _remember(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        both = self.cache[layer, :, :, :, : self.filled + 1]
        both[0, :, :, -1:], both[1, :, :, -1:] = keys, values
        return both[0], both[1]


def passed(
    model: Any,
    prompts: Int64[Tensor, "n p"],
    prompt_mask: Float[Tensor, "n p"],
    responses: Int64[Tensor, "m t"],
) -> tuple[Float[Tensor, "m u h"], Float[Tensor, "m t h"], Product]:
    """Last hidden states before each token of completions and after the last, their embeddings, and what makes logits.

    Args:
        responses: those of a prompt lie side by side, as many of each.
    """
    llama = Llama(model)
    last, kept = llama.read_prompts(prompts, prompt_mask)
    each, t, p = len(responses) // len(prompts), responses.shape[1], prompts.shape[1]
    before = last.repeat_interleave(each, 0)[:, None]
    if t == 0:
        return before, last.new_zeros(len(responses), 0, last.shape[1]), llama.head

    def remember(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        old_keys, old_values = (part.repeat_interleave(each, 0) for part in kept[layer])
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)

    seen = torch.ones(len(prompts), 1, t, p + t, dtype=torch.bool)
    seen[..., :p] = prompt_mask[:, None, None] > 0
    seen[..., p:] = torch.ones(t, t, dtype=torch.bool).tril()
    first = positions(prompt_mask)[:, -1:] + 1
    turns = llama.turns(first + torch.arange(t)).repeat_interleave(each, 0)
    embedded = llama.embed(responses)
    states = llama.states(embedded, turns, _costs(seen).repeat_interleave(each, 0), remember)
    return torch.cat([before, states], 1), embedded, llama.head


def _product(modules: list[Any], norm: Any = None, interleaved: int = 0) -> Product:
    """What one or several modules make of one input.

    Args:
        norm: the input is multiplied by its weights before.
        interleaved: of so many numbers each, the first half comes between the second, as real and imaginary parts lie.
    """
    if all(type(module) is torch.nn.Linear and module.bias is None for module in modules):
        weight = modules[0].weight if len(modules) == 1 else torch.cat([module.weight for module in modules])
        if norm is not None:
            weight = weight * norm.weight
        if interleaved:
            weight = weight.view(-1, 2, interleaved // 2, weight.shape[1]).transpose(1, 2).flatten(0, 2)
        return functools.partial(linear, weight=weight)

    def product(x: Tensor) -> Tensor:
        x = x if norm is None else x * norm.weight
        y = torch.cat([module(x) for module in modules], -1)
        if not interleaved:
            return y
        return y.view(*y.shape[:-1], -1, 2, interleaved // 2).transpose(-1, -2).flatten(-3)

    return product


def _costs(seen: Bool[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """0 where something may be attended to, else -inf."""
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def _attended(
    q: Float[Tensor, "n a s d"], keys: Float[Tensor, "n b k d"], values: Float[Tensor, "n b k d"], costs: Tensor
) -> Float[Tensor, "n a s d"]:
    """Attention; several heads may share keys and values."""
    if q.shape[2] > 1:
        return torch.nn.functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=costs, enable_gqa=q.shape[1] != keys.shape[1]
        )
    grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[3])  # PyTorch's own is slow with one query
    scores = torch.matmul(grouped * q.shape[3] ** -0.5, keys.transpose(2, 3)).add_(costs)
    seen: Tensor = torch.matmul(torch.softmax(scores, -1), values)
    return seen.reshape(q.shape)


class _Normed(torch.autograd.Function):
    """x/√(mean x² + ε), whose gradient needs only what came out: dx = (g - y·mean(g·y))/√(mean x² + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        shrink = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(eps).rsqrt_()
        y: Tensor = x * shrink
        ctx.save_for_backward(y, shrink)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        y, shrink = ctx.saved_tensors
        along = (gradients[0] * y).mean(-1, keepdim=True)
        return torch.addcmul(gradients[0], y, along, value=-1).mul_(shrink), None


def normed(x: Float[Tensor, "*n h"], eps: float) -> Float[Tensor, "*n h"]:
    """x/√(mean x² + ε): root mean square normalisation without weights."""
    if not torch.is_grad_enabled():
        quick: Tensor = torch.rms_norm(x, x.shape[-1:], eps=eps)
        return quick
    y: Tensor = _Normed.apply(x, eps)  # type: ignore[no-untyped-call]  # of PyTorch
    return y
