"""Completions sampled from a model exactly as its probabilities say."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from backflip.lm.models import Batch, positions


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
"""Numbers of log-probabilities that are kept while completions are drawn together: 200 MB."""


class Transformers:
    """Samples with the model that is tuned: no temperature but the given, no top-k, no top-p, no penalties.

    A loop of our own around the model's cache, since `generate` follows whatever a model's generation_config says.
    """

    def __init__(self, model: Any, end: int, tokens: int, temperature: float, together: int = 64) -> None:
        self.model, self.end, self.tokens, self.temperature = model, end, tokens, temperature
        self.together = together
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
        parts = [
            self._complete(tokens[i : i + at_once], prompt_mask[i : i + at_once], each, generator)
            for i in range(0, len(tokens), at_once)
        ]
        responses = torch.cat([part[0] for part in parts])
        log_p = torch.cat([part[1] for part in parts])
        tables = [part[2] for part in parts]
        self.tables = torch.cat([table for table in tables if table is not None]) if all_there(tables) else None
        repeated = tokens.repeat_interleave(each, 0), prompt_mask.repeat_interleave(each, 0)
        mask = up_to_the_end(responses, self.end)
        return Batch(*repeated, responses, mask), log_p * mask

    def _complete(
        self, tokens: Int64[Tensor, "n p"], prompt_mask: Float[Tensor, "n p"], each: int, generator: torch.Generator
    ) -> tuple[Int64[Tensor, "m t"], Float[Tensor, "m t"], Float[Tensor, "m t v"] | None]:
        from transformers import DynamicCache

        cache = DynamicCache()
        mask = prompt_mask.long()
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions(prompt_mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(each)
        logits, mask = out.logits[:, -1].repeat_interleave(each, 0), mask.repeat_interleave(each, 0)
        place = positions(prompt_mask)[:, -1:].repeat_interleave(each, 0)
        drawn, log_p, tables = [], [], []
        keep = logits.numel() * self.tokens <= MOST_KEPT
        ended = torch.zeros(len(mask), dtype=torch.bool)
        for t in range(self.tokens):
            table = torch.log_softmax(logits.float() / self.temperature, -1)
            token = torch.multinomial(table.exp(), 1, generator=generator)
            token = torch.where(ended[:, None], self.end, token)
            drawn.append(token)
            log_p.append(table.gather(1, token))
            if keep:
                tables.append(table)
            ended = ended | (token[:, 0] == self.end)
            if t + 1 == self.tokens or bool(ended.all()):
                break
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            place = place + 1
            logits = self.model(
                input_ids=token, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
            ).logits[:, -1]
        missing = self.tokens - len(drawn)
        responses, chances = torch.cat(drawn, 1), torch.cat(log_p, 1)
        if missing:
            responses = torch.nn.functional.pad(responses, (0, missing), value=self.end)
            chances = torch.nn.functional.pad(chances, (0, missing))
        if not keep:
            return responses, chances, None
        return responses, chances, torch.nn.functional.pad(torch.stack(tables, 1), (0, 0, 0, missing))


def all_there(tables: Sequence[object]) -> bool:
    """Whether none is missing."""
    return all(table is not None for table in tables)


def seed_of(key: Sequence[int]) -> int:
    """A seed from what names a draw."""
    import numpy as np

    return int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
