"""Completions sampled from a model exactly as its probabilities say."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from backflip.lm.llama import Decoder, is_llama, positions
from backflip.lm.passes import Batch


@runtime_checkable
class Sampler(Protocol):
    """Whatever can complete prompts: transformers here, or a server elsewhere."""

    def sample(
        self, prompts: Sequence[Sequence[int]], each: int, key: Sequence[int]
    ) -> tuple[Batch, Float[Tensor, "n t"]]:
        """`each` completions of every prompt, side by side, and log π of their tokens as they were drawn."""

    def renew(self, model: Any) -> None:
        """Sample from this model from now on."""


def padded(prompts: Sequence[Sequence[int]], filler: int) -> tuple[Int64[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Prompts of different lengths as one array, padded at the left, and 1 where a token is no padding."""
    longest = max([1, *(len(prompt) for prompt in prompts)])
    tokens = torch.full((len(prompts), longest), filler, dtype=torch.int64)
    mask = torch.zeros(len(prompts), longest)
    for row, prompt in enumerate(prompts):
        if prompt:
            tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
            mask[row, longest - len(prompt) :] = 1
    return tokens, mask


def up_to_the_end(responses: Int64[Tensor, "n t"], end: int) -> Float[Tensor, "n t"]:
    """1 for the tokens up to the first that ends a text, itself included."""
    ended = (responses == end).long().cumsum(1) - (responses == end).long()
    return (ended == 0).float()


MOST_KEPT = 50_000_000
"""Numbers of log-probabilities that are kept of all completions of a draw: 200 MB."""


class Transformers:
    """Samples with the model that is tuned: no temperature but the given, no top-k, no top-p, no penalties.

    A loop of our own, since `generate` follows whatever a model's generation_config says.
    """

    def __init__(self, model: Any, end: int, tokens: int, temperature: float, together: int = 64) -> None:
        self.model, self.end, self.tokens, self.temperature = model, end, tokens, temperature
        self.together = together
        self.to_the_end = False
        """Pass through the model as often, however soon all completions have ended."""
        self.tables: Float[Tensor, "n t v"] | None = None
        """log π over the whole vocabulary at each step of the newest completions, unless that is too much to keep."""

    def renew(self, model: Any) -> None:
        """Sample from this model from now on."""
        self.model = model

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], each: int, key: Sequence[int]
    ) -> tuple[Batch, Float[Tensor, "n t"]]:
        """`each` completions of every prompt, side by side, and log π of their tokens as they were drawn.

        Args:
            key: names the draw; the same key gives the same completions.
        """
        generator = torch.Generator().manual_seed(seed_of(key))
        tokens, prompt_mask = padded(prompts, self.end)
        at_once = max(1, self.together // each)
        many = each * len(tokens)
        parts = [
            self._complete(tokens[i : i + at_once], prompt_mask[i : i + at_once], each, generator, many)
            for i in range(0, len(tokens), at_once)
        ]
        responses = torch.cat([part[0] for part in parts])
        log_p = torch.cat([part[1] for part in parts])
        tables = [part[2] for part in parts]
        self.tables = torch.cat([table for table in tables if table is not None]) if all_there(tables) else None
        repeated = tokens.repeat_interleave(each, 0), prompt_mask.repeat_interleave(each, 0)
        mask = up_to_the_end(responses, self.end)
        return Batch(*repeated, responses, mask, each), log_p * mask

    def _complete(
        self,
        tokens: Int64[Tensor, "n p"],
        prompt_mask: Float[Tensor, "n p"],
        each: int,
        generator: torch.Generator,
        many: int,
    ) -> tuple[Int64[Tensor, "m t"], Float[Tensor, "m t"], Float[Tensor, "m t v"] | None]:
        decoder = Decoder(self.model) if is_llama(self.model) else Cached(self.model)
        logits = decoder.begin(tokens, prompt_mask, each, self.tokens)
        n, most = len(logits), self.tokens
        chances = torch.rand(most, n, 1, generator=generator)
        responses, log_p = torch.full((n, most), self.end), torch.zeros(n, most)
        tables = torch.zeros(n, most, logits.shape[1]) if many * most * logits.shape[1] <= MOST_KEPT else None
        ended = torch.zeros(n, 1, dtype=torch.bool)
        for t in range(most):
            table = torch.log_softmax(logits.float() / self.temperature, -1)
            token = drawn(table, chances[t]).masked_fill_(ended, self.end)
            responses[:, t : t + 1], log_p[:, t : t + 1] = token, table.gather(1, token)
            if tables is not None:
                tables[:, t] = table
            ended |= token == self.end
            if t + 1 == most or (bool(ended.all()) and not self.to_the_end):
                break
            logits = decoder.step(token)
        return responses, log_p, tables


class Cached:
    """Completions of prompts, a token after the other, by any model that transformers has."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.cache = model, DynamicCache()

    def begin(
        self, prompts: Int64[Tensor, "n p"], prompt_mask: Float[Tensor, "n p"], each: int, tokens: int
    ) -> Float[Tensor, "m v"]:
        """Logits of the first token of `each` completions of every prompt, of which none has more than `tokens`."""
        del tokens  # the cache grows
        place = positions(prompt_mask)
        logits = self._step(prompts, prompt_mask.long(), place)
        self.cache.batch_repeat_interleave(each)
        self.mask, self.place = (part.repeat_interleave(each, 0) for part in (prompt_mask.long(), place[:, -1:]))
        return logits.repeat_interleave(each, 0)

    def step(self, tokens: Int64[Tensor, "m 1"]) -> Float[Tensor, "m v"]:
        """Logits of the tokens after these."""
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], 1)
        self.place = self.place + 1
        return self._step(tokens, self.mask, self.place)

    def _step(self, tokens: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=place,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def drawn(log_p: Float[Tensor, "n v"], chance: Float[Tensor, "n 1"]) -> Int64[Tensor, "n 1"]:
    """One token a row as its log-probabilities say: the first up to which they sum to more than a chance in [0, 1)."""
    sums = log_p.double().exp_().cumsum(1)
    return torch.searchsorted(sums, chance * sums[:, -1:], right=True)


def all_there(tables: Sequence[object]) -> bool:
    """Whether none is missing."""
    return all(table is not None for table in tables)


def seed_of(key: Sequence[int]) -> int:
    """A seed from what names a draw."""
    import numpy as np

    return int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
