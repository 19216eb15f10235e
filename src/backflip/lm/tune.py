"""Tuning: the language model completes prompts, is paid by the newest r̂ and kept near the original. §2.2.1"""

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from backflip.files import load_arrays, save_arrays, write_whole
from backflip.lm.kl import controller, exact, k1, k3
from backflip.lm.learn import RLOO, Paid, TokenPPO
from backflip.lm.models import (
    Causal,
    ModelError,
    adapted,
    arrays,
    fingerprint,
    identity,
    memory_suffices,
    must_reach,
    original_of,
    put_back,
    spread_as,
    whole,
)
from backflip.lm.passes import Batch, forward, log_probabilities
from backflip.lm.prompts import cut, read_of, seen
from backflip.lm.reward import (
    CompletionReward,
    Read,
    Reader,
    Sampled,
    as_segments,
    joined,
    load_read,
    must_be_of,
    save_read,
)
from backflip.lm.sampling import Sampler, Transformers
from backflip.lm.shown import Shown
from backflip.lm.small import find
from backflip.lm.tasks import TaskError, task_of
from backflip.lm.vllm import server_of
from backflip.published import Published
from backflip.rundir import STEPS, RunDir
from backflip.segments import Array
from backflip.settings import Settings
from backflip.store import Store
from backflip.texts import Text
from backflip.tuning import TuneConfig

_log = logging.getLogger(__name__)

SAMPLING_ERROR = 0.02
"""Nats by which log π of a token may differ between sampling and learning, by rounding."""
ORIGINAL = "original.safetensors"
"""Features of the original's completions, in the run directory: what each r̂ is normalised on."""


class SamplingError(ModelError):
    """Completions do not follow the policy's own probabilities, so that KL would mean nothing."""


class Tuner:
    """A policy that begins as a copy of its original, and everything that learning depends on."""

    def __init__(self, causal: Causal, config: TuneConfig, seed: int = 0, sampler: Sampler | None = None) -> None:
        self.config, self.seed = config, seed
        self.identity = identity(causal.model)
        self.policy = adapted(causal.model, config.lora_rank)
        self.adapts = self.policy is not causal.model
        # With adapters, the original is the policy without them.
        unchanged = self.policy if self.adapts else copy.deepcopy(causal.model).eval()
        self.original = Causal(unchanged, causal.tokenizer, causal.source)
        for parameter in [] if self.adapts else self.original.model.parameters():
            parameter.requires_grad_(False)
        self.causal = Causal(self.policy, causal.tokenizer, causal.source)
        self.reader = Reader(self.original, config)
        self.began_with = fingerprint(self.original.model)
        self.learner = (
            TokenPPO(self.policy, config, causal.width) if config.algorithm == "ppo" else RLOO(self.policy, config)
        )
        self.sampler = sampler or Transformers(
            self.policy, causal.end, config.response_tokens, config.temperature, config.micro_batch
        )
        self.sampler.renew(self.policy)
        self.controller = controller(config.controller, config.beta, config.kl_target, config.horizon)
        self.processes = 1
        """Processes that share each batch (`backflip.lm.parallel`)."""
        self.completions = 0
        self.batches = 0

    def tokens(self, prompt: str) -> list[int]:
        """A prompt's tokens; it loses its beginning where it is too long, and is never empty."""
        return read_of(self.causal, prompt, self.config.prompt_tokens, self.config.chat)

    def texts(self, prompts: Sequence[str], each: int, responses: Int64[Tensor, "n t"]) -> list[Text]:
        """Completions as text, each with what was read of its prompt."""
        whole = [seen(self.causal, prompt, self.config.prompt_tokens) for prompt in prompts]
        before = [self.tokens(prompt) for prompt in prompts]
        rows = enumerate(responses.tolist())
        return [Text(whole[i // each], self.causal.text(row, before[i // each])) for i, row in rows]

    def sample(self, prompts: Sequence[str], each: int, key: Sequence[int]) -> Sampled:
        """`each` completions of every prompt."""
        batch, log_p = self.sampler.sample([self.tokens(prompt) for prompt in prompts], each, key)
        return self._looked_at(self.texts(prompts, each, batch.responses), batch, log_p)

    @torch.no_grad()
    def _looked_at(self, texts: list[Text], batch: Batch, log_p: Float[Tensor, "n t"]) -> Sampled:
        """What the original makes of completions."""
        parts, reads, kl = [], [], 0.0
        tables = getattr(self.sampler, "tables", None)
        for i in range(0, len(batch), self.config.micro_batch):
            some = batch[i : i + self.config.micro_batch]
            with original_of(self.original.model):
                passed = forward(self.original.model, some, hidden=not self.config.encoder)
            drawn, table = log_probabilities(passed.logits, some.responses, self.config.temperature)
            parts.append(drawn * some.mask)
            if not self.config.encoder:
                reads.append(self.reader.from_passed(passed, some))
            if self.completions == 0:
                continue  # the policy is the original
            if tables is None:
                now = forward(self.policy, some).logits
                _, of_policy = log_probabilities(now, some.responses, self.config.temperature)
            else:  # known since they were drawn
                of_policy = tables[i : i + self.config.micro_batch]
            kl += float(exact(of_policy, table, some.mask).sum())
        read = self.reader.read(texts) if self.config.encoder else joined(reads)
        return Sampled(texts, batch, log_p, torch.cat(parts), read, kl / len(batch))

    def learn(self, sampled: Sampled, rewards: Float32[np.ndarray, " n"], steps: Any = None) -> dict[str, float]:
        """Learn from what completions are paid, move β, and measure.

        Raises:
            SamplingError: the completions were not drawn as the policy's probabilities say.
        """
        paid = Paid(sampled.batch, rewards, sampled.log_p, sampled.original, steps)
        beta = self.controller.beta
        values = self.learner.learn(paid, beta)
        error = values["act/sampling_error"]
        if error > SAMPLING_ERROR:
            raise SamplingError(
                f"tokens were drawn with other probabilities than the policy's (log π differs by {error:.2g} nats): "
                "sample without top-k, top-p and penalties, at the temperature of the settings"
            )
        self.sampler.renew(self.policy)
        many = self.processes * len(sampled.batch)
        self.controller.update(sampled.exact_kl, many)
        self.completions += many
        self.batches += 1
        mask, log_p, original = sampled.batch.mask, sampled.log_p, sampled.original
        return {
            **values,
            "act/reward": float(rewards.mean()),
            "act/kl_exact": sampled.exact_kl,
            "act/kl_k1": float(k1(log_p, original, mask).mean()),
            "act/kl_k3": float(k3(log_p, original, mask).mean()),
            "act/beta": beta,
            "act/completion_tokens": float(mask.sum(1).mean()),
        }

    def content(self) -> dict[str, Array]:
        """All numbers that learning depends on; where they are spread, all processes have to ask together."""
        content = {f"policy.{name}": value for name, value in arrays(self.policy).items()}
        content |= {f"head.{name}": value.detach().numpy() for name, value in self.learner.heads().items()}
        for i, leaf in enumerate(self.learner.leaves):
            for name, value in self.learner.adam.state.get(leaf, {}).items():
                content[f"adam.{i}.{name}"] = whole(torch.as_tensor(value)).cpu().numpy()
        return content

    def save(self, directory: Path) -> None:
        """Write everything that learning depends on."""
        save_arrays(directory / "policy.safetensors", self.content())
        state = {
            "completions": self.completions,
            "batches": self.batches,
            "controller": self.controller.state(),
            "original": self.began_with,
        }
        write_whole(directory / "tuning.json", json.dumps(state).encode())

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ModelError: it began with another original, so that KL would be to the wrong one.
        """
        file = directory / "policy.safetensors"
        state = json.loads((directory / "tuning.json").read_text())
        content, _ = load_arrays(file)
        put_back(
            self.policy, {n.removeprefix("policy."): v for n, v in content.items() if n.startswith("policy.")}, file
        )
        if state.get("original", "") not in ("", self.began_with):  # the first checkpoints do not say
            raise ModelError(
                f"{file} was tuned from another model than {self.causal.source} is now; give the model it began with"
            )
        with torch.no_grad():
            for name, value in self.learner.heads().items():
                value.copy_(torch.from_numpy(content[f"head.{name}"]))
        for i, leaf in enumerate(self.learner.leaves):
            prefix = f"adam.{i}."
            found = {
                n.removeprefix(prefix): torch.from_numpy(v.copy()) for n, v in content.items() if n.startswith(prefix)
            }
            if found:
                self.learner.adam.state[leaf] = {
                    name: spread_as(value, leaf) if value.shape == leaf.shape else value
                    for name, value in found.items()
                }
        self.completions, self.batches = int(state["completions"]), int(state["batches"])
        self.controller.go_on(state["controller"])
        self.sampler.renew(self.policy)


class Tune:
    """The language model's part of a run: its completions are paid by r̂ and become segments. §2.2.1"""

    def __init__(self, run: RunDir, store: Store, settings: Settings) -> None:
        assert settings.tune is not None
        self.run, self.store, self.settings, self.config = run, store, settings, settings.tune
        torch.manual_seed(settings.seed)  # peft draws its adapters from it
        self.task = task_of(run)
        self.prompts = self.task.prompts()
        causal = find(self.config.model)
        if (run.path / ORIGINAL).exists():
            must_be_of(run.path / ORIGINAL, causal)
        server = server_of(self.config, causal.end, run.path / "sampler")
        with memory_suffices(f"tuning {causal.source}"):
            self.policy = PolicySteps(Tuner(causal, self.config, settings.seed, server))
        self.tuner = self.policy.tuner
        self.doing = f"{self.config.batch} completions by {causal.source} at a time"
        self.reward = Published(run)
        self.paid_by: CompletionReward | None = None
        self._recorded = (0, time.perf_counter())
        self._pace = 0.0
        self._began = store.clock()
        self.shown = Shown(store, settings)
        self._original = self._completions_of_the_original()

    @property
    def done(self) -> bool:
        """Whether the budget of completions is used up."""
        return self.policy.steps >= self.settings.steps

    def step(self, wait: bool = False) -> bool:
        """One batch: paid by r̂ and learned from, or before there is an r̂ merely shown. False if there was none.

        Args:
            wait: once there is enough to ask about, rather wait for the first r̂ than use up completions.
        """
        newer = self.look_for_reward()
        if self.paid_by is None and wait and self.shown.enough(self.policy.steps):
            self.tell("waiting for the first answers")
            return False
        with memory_suffices(self.doing):
            sampled = self.tuner.sample(self.draw(self.config.batch_prompts), self.config.completions, self.key())
        gold = self.gold(sampled.texts)
        self.show(sampled.texts, sampled.read, gold)
        newer |= self.look_for_reward()  # to draw takes a large model seconds, in which people go on answering
        if self.paid_by is None:
            self.policy.explored += len(sampled.batch)
            self.tell("exploring")
            return True
        rewards = self.paid_by(sampled.read)
        steps = self.paid_by.steps(sampled.read) if self.config.reads == "tokens" else None
        waited = self.since_the_answer(newer)
        self.tell("training")
        with memory_suffices(self.doing):
            values = self.tuner.learn(sampled, rewards, steps)
        values |= {"act/reward_version": float(self.reward.version), "act/predicted_return": values["act/reward"]}
        if gold is not None:
            values["act/true_return"] = float(gold.mean())
        self.measure({**values, **waited})
        return True

    def look_for_reward(self, exactly: int | None = None) -> bool:
        """Be paid by the newest r̂ from now on, or by that of a number; whether it is another one."""
        if not self.reward.refresh(exactly) or self.reward.ensemble is None:
            return False
        self.paid_by = CompletionReward(
            self.reward.ensemble, self._original, self.config.aggregate, self.config.pessimism
        )
        return True

    def since_the_answer(self, newer: bool) -> dict[str, float]:
        """Seconds from the newest answer that r̂ was fitted to, at the first batch that it pays."""
        arrived = self.run.told("fit").get("arrived")
        if not newer or arrived is None or float(arrived) < self._began or self.settings.mode != "at_once":
            return {}
        return {"act/answer_to_policy": max(0.0, self.store.clock() - float(arrived))}

    def draw(self, count: int) -> list[str]:
        """So many prompts for the next batch."""
        rng = np.random.default_rng([self.settings.seed, 5, self.policy.steps])
        few = len(self.prompts) < count
        return [self.prompts[i] for i in rng.choice(len(self.prompts), count, replace=few)]

    def key(self) -> tuple[int, ...]:
        """What names the draw of the next batch's completions."""
        return (self.settings.seed, 6, self.policy.steps)

    def gold(self, texts: list[Text]) -> Float32[np.ndarray, " n"] | None:
        """What stands in for people's taste; nothing but oracles and the record may read it."""
        if self.task.gold is None:
            return None
        try:
            return self.task.gold(texts)
        except TaskError:  # what measures it is not installed, and not needed where people teach
            return None

    def show(self, texts: list[Text], read: Read, gold: Float32[np.ndarray, " n"] | None) -> None:
        """Let completions be asked about."""
        segments = as_segments(texts, read, gold, self.config, self.policy.steps)
        self.store.add(segments, self.settings.keep_segments)
        if self.paid_by is None:
            self.shown.add(texts)

    def measure(self, values: dict[str, float]) -> None:
        """Record what was measured of a batch."""
        steps, (before, then) = self.policy.steps, self._recorded
        now = time.perf_counter()
        self._recorded = (steps, now)
        self._pace = (steps - before) / max(1e-9, now - then)
        self.run.record(steps, {"act/steps_per_second": self._pace, **values})
        self.tell("training")

    def tell(self, state: str) -> None:
        """Let everybody know how far the policy is."""
        self.run.tell(
            "act",
            state=state,
            steps=self.policy.steps,
            total_steps=self.settings.steps,
            steps_per_second=self._pace,
            reward_version=self.reward.version,
        )

    def _completions_of_the_original(self) -> Read:
        """Features of the original's own completions, sampled once for the whole run."""
        file = self.run.path / ORIGINAL
        if file.exists():
            return load_read(file)
        turn = len(self.tuner.tokens("")) if self.config.chat else 0
        must_reach(self.tuner.causal.reach, turn + self.config.tokens, self.tuner.causal.source)
        if said := cut(self.tuner.causal, self.prompts, self.config.prompt_tokens):
            _log.warning(said)
        many = -(-self.config.original_samples // 2)
        rng = np.random.default_rng([self.settings.seed, 7])
        prompts = [self.prompts[i] for i in rng.integers(len(self.prompts), size=many)]
        read = self.tuner.sample(prompts, 2, (self.settings.seed, 8)).read
        save_read(file, read, self.tuner.identity)
        return read

    def save(self, number: int) -> None:
        """A checkpoint."""
        with self.run.publishing("act", number) as directory:
            self.tuner.save(directory)
            steps = {"steps": self.policy.steps, "explored": self.policy.explored}
            write_whole(directory / STEPS, json.dumps(steps).encode())

    def load(self, exactly: int | None = None) -> None:
        """Go on from the newest checkpoint, or from that of a number, if there is one."""
        checkpoint = self.run.newest("act", exactly)
        if checkpoint is not None:
            self.tuner.load(checkpoint.path)
            self.policy.explored = int(json.loads((checkpoint.path / STEPS).read_text())["explored"])
            self._recorded = (self.policy.steps, time.perf_counter())


@dataclass
class PolicySteps:
    """The policy with its count of completions, those before the first r̂ included."""

    tuner: Tuner
    explored: int = 0

    @property
    def steps(self) -> int:
        """Completions so far."""
        return self.explored + self.tuner.completions
