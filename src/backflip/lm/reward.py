"""What r̂ reads of a completion, and what the policy is paid for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from backflip.lm.models import Causal, ModelError, identity, must_have_turns, original_of
from backflip.lm.passes import Batch, Passed, forward
from backflip.lm.prompts import read_of, too_long
from backflip.lm.sampling import padded
from backflip.reward import RewardEnsemble
from backflip.segments import Array, Segments
from backflip.texts import Text, pack_texts
from backflip.tuning import TuneConfig

TEXT_ROOM = 16
"""Bytes that a token takes at most on average, in what is stored of a completion."""
SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Read:
    """What r̂ reads of n completions, in k steps each (one, where a completion is read as a whole)."""

    observations: Float32[np.ndarray, "n k d"]
    lengths: Int64[np.ndarray, " n"]

    def mask(self) -> Float32[np.ndarray, "n k"]:
        """1 for the steps that count."""
        return (np.arange(self.observations.shape[1]) < self.lengths[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Sampled:
    """Completions, how policy and original found their tokens, and what r̂ reads of them."""

    texts: list[Text]
    batch: Batch
    log_p: Float[Tensor, "n t"]
    original: Float[Tensor, "n t"]
    read: Read
    exact_kl: float
    """Mean KL to the original of a completion, over the whole vocabulary at each step. [nats]"""


def read_mask(batch: Batch, end: int) -> Float[Tensor, "n t"]:
    """1 for the tokens that r̂ reads: all of a completion but the token that ends it.

    Whether a text comes with that token depends on who sends it (a limit cut it off, a library stripped it), so r̂ must
    not: the same text is the same reward everywhere.
    """
    return batch.mask * (batch.responses != end).float()


class Reader:
    """Features of completions, from the frozen original's own layers or from a frozen text encoder.

    From the original: each token's embedding and its last hidden state, averaged over the completion or token by token.
    """

    def __init__(self, original: Causal, config: TuneConfig) -> None:
        self.original, self.config = original, config
        self.encoder = _Encoder(config.encoder) if config.encoder else None
        must_have_turns(original.tokenizer.chat_template, config.chat, original.source)
        if self.encoder and config.reads == "tokens":
            raise ModelError("a text encoder reads completions as a whole; leave out --encoder to read tokens")

    @property
    def steps(self) -> int:
        """Steps k of a segment."""
        return self.config.response_tokens if self.config.reads == "tokens" else 1

    @property
    def size(self) -> int:
        """Numbers d in one step."""
        return self.encoder.width if self.encoder else 2 * self.original.width

    def from_passed(self, passed: Passed, batch: Batch) -> Read:
        """Features of completions that went through the original."""
        assert passed.embedded is not None
        assert passed.after is not None
        mask = read_mask(batch, self.original.end)
        states = torch.cat([passed.embedded, passed.after], -1).float()
        lengths = mask.sum(1)
        if self.config.reads == "tokens":
            return Read((states * mask[..., None]).numpy(), lengths.clamp(min=1).long().numpy())
        mean = (states * mask[..., None]).sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
        return Read(mean.numpy(), np.ones(len(batch), np.int64))

    @torch.no_grad()
    def read(self, texts: Sequence[Text]) -> Read:
        """Features of texts, wherever they come from: tokenised as prompts and completions are while tuning."""
        c, source = self.config, self.original
        if self.encoder:
            # It reads what a policy could have written, as while tuning: up to the end, and no more tokens.
            prompts = [read_of(source, text.prompt, c.prompt_tokens, c.chat) for text in texts]
            cut = [source.text(self._tokens(text), before) for text, before in zip(texts, prompts, strict=True)]
            return self.encoder.read([Text(text.prompt, one) for text, one in zip(texts, cut, strict=True)])
        parts = []
        for i in range(0, len(texts), c.micro_batch):
            batch = self.batch(texts[i : i + c.micro_batch])
            with original_of(source.model):
                passed = forward(source.model, batch, hidden=True)
            parts.append(self.from_passed(passed, batch))
        return joined(parts)

    def batch(self, texts: Sequence[Text]) -> Batch:
        """Texts as tokens; a completion with more than `response_tokens` loses its end."""
        c, source = self.config, self.original
        prompts = [read_of(source, text.prompt, c.prompt_tokens, c.chat) for text in texts]
        tokens, prompt_mask = padded(prompts, source.end)
        responses = torch.full((len(texts), c.response_tokens), source.end, dtype=torch.int64)
        mask = torch.zeros(len(texts), c.response_tokens)
        for row, text in enumerate(texts):
            found = self._tokens(text)
            if found:
                responses[row, : len(found)] = torch.tensor(found)
            mask[row, : min(len(found) + 1, c.response_tokens)] = 1
        return Batch(tokens, prompt_mask, responses, mask)

    def unread(self, texts: Sequence[Text]) -> str | None:
        """A sentence about the completions that are too long to be read whole; None where there are none."""
        most = self.config.response_tokens
        longer = too_long("completions", [len(self._whole(text)) for text in texts], most)
        return longer and (
            f"{longer}: only their first {most} are scored, as many as the run's own have; let the trainer make no "
            "longer ones"
        )

    def _tokens(self, text: Text) -> list[int]:
        """The tokens of a completion that are read."""
        return self._whole(text)[: self.config.response_tokens]

    def _whole(self, text: Text) -> list[int]:
        """The tokens of a completion up to the first that ends it."""
        source, end = self.original, self.original.end
        before = source.turn(text.prompt) if self.config.chat else text.prompt
        found = source.tokens_after(before, text.completion)
        return found[: found.index(end)] if end in found else found


def joined(parts: Sequence[Read]) -> Read:
    """Several reads, one after the other."""
    return Read(np.concatenate([p.observations for p in parts]), np.concatenate([p.lengths for p in parts]))


class CompletionReward:
    """r̂ of completions, normalised member by member on completions of the original: there mean 0, deviation 1.

    So β, the price of a nat, keeps its meaning whatever r̂ has learned since (Ziegler et al. 2019, §2.2), and members
    count equally (Christiano et al. 2017, §2.2.3).
    """

    def __init__(
        self, ensemble: RewardEnsemble, original: Read, aggregate: str = "mean", pessimism: float = 1.0
    ) -> None:
        self.ensemble, self.aggregate, self.pessimism = ensemble, aggregate, pessimism
        there = self._sums(original)
        self.mean = there.mean(1, keepdims=True)
        self.deviation = np.maximum(there.std(1, keepdims=True), SMALLEST_SPREAD)

    def members(self, read: Read) -> Float32[np.ndarray, "m n"]:
        """Every member's reward of every completion."""
        rewards: Float32[np.ndarray, "m n"] = (self._sums(read) - self.mean) / self.deviation
        return rewards

    def __call__(self, read: Read) -> Float32[np.ndarray, " n"]:
        """What the policy is paid for each completion."""
        return combined(self.members(read), self.aggregate, self.pessimism)

    def steps(self, read: Read) -> Float32[np.ndarray, "n k"]:
        """What each step is paid: the mean member's reward, and what a completion's whole lacks, spread evenly.

        Normalising takes the same off each completion, and an aggregate other than the mean is of whole completions.
        """
        actions = np.zeros((*read.observations.shape[:2], 0), np.float32)
        raw = self.ensemble.raw(read.observations, actions).numpy()
        mean = (raw / self.deviation[..., None]).mean(0) * read.mask()
        missing = (self(read) - mean.sum(1)) / read.lengths
        rewards: Float32[np.ndarray, "n k"] = (mean + missing[:, None] * read.mask()).astype(np.float32)
        return rewards

    def _sums(self, read: Read) -> Array:
        actions = np.zeros((*read.observations.shape[:2], 0), np.float32)
        return self.ensemble.segment_returns(read.observations, actions, read.mask())


def combined(rewards: Float32[np.ndarray, "m n"], aggregate: str, pessimism: float = 1.0) -> Float32[np.ndarray, " n"]:
    """One reward from the members': mean, mean less so many deviations, or the least (Coste et al. 2023)."""
    if aggregate == "minimum":
        least: Float32[np.ndarray, " n"] = rewards.min(0)
        return least
    mean: Float32[np.ndarray, " n"] = rewards.mean(0)
    if aggregate == "pessimistic":
        mean = (mean - np.float32(pessimism) * rewards.std(0)).astype(np.float32)
    return mean


def room_of(config: TuneConfig) -> int:
    """Bytes for the text of one completion with its prompt."""
    return 8 + TEXT_ROOM * (config.prompt_tokens + config.response_tokens)


def as_segments(
    texts: Sequence[Text],
    read: Read,
    gold: Float32[np.ndarray, " n"] | None,
    config: TuneConfig,
    policy_steps: int,
) -> Segments:
    """Completions as segments: what r̂ reads as observations, no actions, gold as true reward, text as states."""
    n, k = read.observations.shape[:2]
    true = np.full((n, k), np.nan if gold is None else 0.0, np.float32)
    if gold is not None:
        true[np.arange(n), read.lengths - 1] = gold
    room = room_of(config)
    return Segments(
        ids=np.full(n, -1, np.int64),
        observations=read.observations.astype(np.float32),
        actions=np.zeros((n, k, 0), np.float32),
        true_rewards=true,
        states=pack_texts(texts, k, room),
        policy_steps=np.full(n, policy_steps, np.int64),
        lengths=read.lengths.astype(np.int64),
    )


class _Encoder:
    """A frozen text encoder: the mean of its last hidden states over a completion's tokens."""

    def __init__(self, source: str) -> None:
        from backflip.lm.models import load_encoder

        self.model, self.tokenizer = load_encoder(source)
        self.width = int(self.model.config.hidden_size)

    @torch.no_grad()
    def read(self, texts: Sequence[Text]) -> Read:
        parts = []
        for i in range(0, len(texts), 64):
            some: Any = self.tokenizer(
                [text.completion or " " for text in texts[i : i + 64]],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            states = self.model(**some).last_hidden_state
            weight = some["attention_mask"][..., None].float()
            parts.append(((states * weight).sum(1) / weight.sum(1).clamp(min=1)).numpy())
        found = np.concatenate(parts)[:, None]
        return Read(found, np.ones(len(found), np.int64))


def save_read(path: Path, read: Read, model: str = "") -> None:
    """Write features into a file.

    Args:
        model: which model's they are (`backflip.lm.models.identity`).
    """
    from backflip.files import save_arrays

    save_arrays(path, {"observations": read.observations, "lengths": read.lengths}, {"model": model})


def must_be_of(path: Path, causal: Causal) -> None:
    """Refuse a model whose features are not those in the file that `save_read` wrote.

    Raises:
        ModelError: it is another model than a run began with.
        DamagedFile: the file cannot be read.
    """
    from backflip.files import load_arrays

    _, meta = load_arrays(path)
    if meta.get("model", "") not in ("", identity(causal.model)):  # the first files do not say
        raise ModelError(
            f"{causal.source} is not the model that {path.parent} began with: its weights are others; put that one "
            "back, or start a new run"
        )


def load_read(path: Path) -> Read:
    """What `save_read` wrote.

    Raises:
        DamagedFile: it cannot be read.
    """
    from backflip.files import load_arrays

    arrays, _ = load_arrays(path)
    return Read(arrays["observations"].astype(np.float32), arrays["lengths"].astype(np.int64))
