"""How a language model is tuned: plain values, without PyTorch."""

from dataclasses import dataclass
from typing import Literal

from backflip.errors import must_be_one_of, plain_numbers

Algorithm = Literal["rloo", "ppo"]
Controller = Literal["budget", "ziegler", "fixed"]
Aggregate = Literal["mean", "pessimistic", "minimum"]
Reads = Literal["completion", "tokens"]


@dataclass(frozen=True)
class TuneConfig:
    """How a language model is tuned on r̂ and kept near the original."""

    model: str = "reviews"
    """A folder of transformers' format, a GGUF file, a hub's id, or a name from `backflip.lm.models.SMALL`."""
    prompts: str | None = None
    """A file with a prompt a line, instead of the task's own."""
    question: str | None = None
    """What people are asked, instead of the task's own question."""
    algorithm: Algorithm = "rloo"
    """REINFORCE against the mean of a prompt's other completions (Ahmadian et al. 2024), or PPO over tokens."""
    batch_prompts: int = 16
    completions: int = 4
    """Completions of each prompt in a batch; two of them make a query."""
    prompt_tokens: int = 32
    """A longer prompt loses its beginning."""
    chat: bool = False
    """Prompts are put as a user's turn into the tokenizer's chat template, for models that were tuned to dialogues."""
    response_tokens: int = 24
    """Tokens of a completion at most (Ziegler et al. 2019)."""
    temperature: float = 1.0
    learning_rate: float = 3e-4
    lora_rank: int | None = None
    """Tune adapters of this rank only; 0 tunes all weights. By default 16 where the model has more than 50 million."""
    controller: Controller = "budget"
    """What moves β: a budget of KL (see `backflip.lm.kl.Budget`), Ziegler's rule, or nothing."""
    beta: float = 0.1
    """Price of a nat at the start, in deviations of r̂ on the original's completions."""
    kl_target: float = 6.0
    """Nats of KL to the original a completion (Ziegler et al. 2019)."""
    horizon: int = 10_000
    """Completions in which Ziegler's rule may change β by a factor of e^0.2 (Ziegler et al. 2019)."""
    reads: Reads = "completion"
    """r̂ reads a completion as a whole (features averaged over its tokens) or token by token, and sums."""
    encoder: str | None = None
    """A folder or hub's id of a frozen text encoder that r̂ reads through, instead of the original's own layers."""
    aggregate: Aggregate = "mean"
    """What the policy is paid: the members' mean (§2.2.3), mean less `pessimism` deviations, or the least."""
    pessimism: float = 1.0
    original_samples: int = 256
    """Completions of the original on which each r̂ is normalised, so that β keeps its meaning (Ziegler et al. 2019)."""
    micro_batch: int = 64
    """Completions that go through the model together."""
    epochs: int = 4
    """PPO: passes over a batch (Ziegler et al. 2019)."""
    minibatches: int = 1
    """PPO: steps a pass."""
    clip: float = 0.2
    gae: float = 0.95
    value_weight: float = 0.1
    gradient_norm: float = 1.0
    sampler: str | None = None
    """Address of a vLLM server that samples, such as http://127.0.0.1:8000; by default transformers does, here."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        must_be_one_of(Algorithm, algorithm=self.algorithm)
        must_be_one_of(Controller, controller=self.controller)
        must_be_one_of(Aggregate, aggregate=self.aggregate)
        must_be_one_of(Reads, reads=self.reads)
        counts = ("batch_prompts", "prompt_tokens", "response_tokens", "original_samples", "micro_batch", "epochs")
        for name in (*counts, "minibatches", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.completions < 2:
            raise ValueError(f"completions is {self.completions}; comparing takes at least 2 of each prompt")
        for name in ("temperature", "learning_rate", "beta", "kl_target"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.sampler is not None and not self.sampler.startswith(("http://", "https://")):
            raise ValueError(f"sampler is {self.sampler!r}; it is the address of a server: http://127.0.0.1:8000")
        if self.lora_rank is not None and self.lora_rank < 0:
            raise ValueError(f"lora_rank is {self.lora_rank}; it is 0 (all weights) or more")

    @property
    def tokens(self) -> int:
        """Tokens that a prompt and its completion may have."""
        return self.prompt_tokens + self.response_tokens

    @property
    def batch(self) -> int:
        """Completions of a batch."""
        return self.batch_prompts * self.completions
