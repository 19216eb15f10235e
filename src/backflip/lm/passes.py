"""Completions through a model: what it makes of each token, by transformers or, where it is a Llama, leaner."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from backflip.lm.llama import is_llama, passed, positions


@dataclass(frozen=True)
class Batch:
    """n completions with their prompts: prompts padded at the left, completions at the right."""

    prompts: Int64[Tensor, "n p"]
    prompt_mask: Float[Tensor, "n p"]
    responses: Int64[Tensor, "n t"]
    mask: Float[Tensor, "n t"]
    """1 for the tokens of a completion, the one that ends it included."""
    each: int = 1
    """So many completions side by side are known to have the same prompt, which is then read once."""

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Any) -> "Batch":
        """Some of them."""
        whole = isinstance(index, slice) and index.step is None and (index.start or 0) % self.each == 0
        some = Batch(self.prompts[index], self.prompt_mask[index], self.responses[index], self.mask[index])
        return replace(some, each=self.each) if whole and len(some) % self.each == 0 else some


@dataclass(frozen=True)
class Passed:
    """What a model makes of completions."""

    logits: Float[Tensor, "n t v"]
    """Of each token, before it is known."""
    before: Float[Tensor, "n t h"] | None = None
    """Last hidden states before each token, if they were asked for, as the two that follow."""
    after: Float[Tensor, "n t h"] | None = None
    """The same when it is known."""
    embedded: Float[Tensor, "n t h"] | None = None
    """What the token itself is to the first layer."""


def forward(model: Any, batch: Batch, hidden: bool = False) -> Passed:
    """Logits of each token of the completions, and if asked hidden states."""
    return _lean(model, batch, hidden) if is_llama(model) else by_transformers(model, batch, hidden)


def by_transformers(model: Any, batch: Batch, hidden: bool = False) -> Passed:
    """The same for any model."""
    tokens = torch.cat([batch.prompts, batch.responses], 1)
    mask = torch.cat([batch.prompt_mask, batch.mask], 1)
    t = batch.responses.shape[1]
    out = model(
        input_ids=tokens,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        use_cache=False,
        output_hidden_states=hidden,
        logits_to_keep=t + 1,
    )
    logits = out.logits[:, -t - 1 : -1]
    if not hidden:
        return Passed(logits)
    first, last = out.hidden_states[0], out.hidden_states[-1]
    return Passed(logits, last[:, -t - 1 : -1], last[:, -t:], first[:, -t:])


def _lean(model: Any, batch: Batch, hidden: bool) -> Passed:
    prompts, prompt_mask = batch.prompts[:: batch.each], batch.prompt_mask[:: batch.each]
    responses = batch.responses if hidden else batch.responses[:, :-1]  # nothing comes after the last
    states, embedded, head = passed(model, prompts, prompt_mask, responses)
    before = states[:, : batch.responses.shape[1]]
    return Passed(head(before), before, states[:, 1:], embedded) if hidden else Passed(head(before))


def log_probabilities(
    logits: Float[Tensor, "n t v"], responses: Int64[Tensor, "n t"], temperature: float
) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t v"]]:
    """log π of the tokens that were drawn, and of the whole vocabulary."""
    table = torch.log_softmax(logits.float() / temperature, -1)
    return table.gather(2, responses[..., None])[..., 0], table


class _Chosen(torch.autograd.Function):
    """log softmax at one place a row; its gradient, g·(1[chosen] - p), is made in one array of the logits' size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor) -> Tensor:
        table = torch.log_softmax(logits, -1)
        ctx.save_for_backward(table, chosen)
        return table.gather(-1, chosen[..., None])[..., 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        table, chosen = ctx.saved_tensors
        g = gradients[0][..., None]
        return table.exp().mul_(-g).scatter_add_(-1, chosen[..., None], g), None


def log_p_of(
    logits: Float[Tensor, "n t v"], responses: Int64[Tensor, "n t"], temperature: float
) -> Float[Tensor, "n t"]:
    """log π of the tokens that were drawn, to learn from."""
    found: Tensor = _Chosen.apply(logits.float() / temperature, responses)  # type: ignore[no-untyped-call]  # of PyTorch
    return found
