"""Language models from a folder, a GGUF file or a hub; the policy beside its frozen original."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backflip.errors import Mendable
from backflip.lm.sampling import Cached
from backflip.segments import Array

LARGE = 50_000_000
"""Models with more weights are tuned by adapters, unless something else is said."""
LORA_RANK = 16
BY_ROUNDING = 1e-4
"""Share of the largest logit by which others may differ that should be equal."""
FINGERPRINT = 1024
"""So many weights of each array are looked at, so that large models are not read as a whole."""


class ModelError(Mendable):
    """A language model that cannot be used; the message says which, why and what to do."""


@dataclass
class Causal:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any
    source: str

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def reach(self) -> int | None:
        """Tokens that the model reads at most; None where it has no bound."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text as it stands, without any that mark its beginning or end."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def turn(self, text: str) -> str:
        """A dialogue in which a user says a text, up to where the answer begins."""
        said = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False))

    def tokens_after(self, prompt: str, completion: str) -> list[int]:
        """The tokens of a completion as they follow its prompt, or of the completion alone where one reaches over."""
        before, both = self.tokens(prompt), self.tokens(prompt + completion)
        return both[len(before) :] if both[: len(before)] == before else self.tokens(completion)

    def text(self, tokens: list[int], after: Sequence[int] = ()) -> str:
        """The text of some tokens, up to the first that ends it.

        Args:
            after: the tokens before them: SentencePiece leaves out the space that a text begins with, so that both are
                decoded together.
        """
        if self.end in tokens:
            tokens = tokens[: tokens.index(self.end)]
        before, both = self.decoded([*after]), self.decoded([*after, *tokens])
        return both[len(before) :] if both.startswith(before) else self.decoded(tokens)

    def decoded(self, tokens: list[int]) -> str:
        """The text of all of some tokens."""
        found: str = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return found


def load(source: str) -> Causal:
    """A causal language model with float32 weights, and its tokenizer.

    Args:
        source: a folder of transformers' format, a GGUF file, or a hub's id.

    Raises:
        ModelError: there is none, it cannot be read, has no tokenizer, or memory does not suffice.
    """
    transformers = _transformers()
    place, options = _place(source)
    tokenizer = _tokenizer(source)
    try:
        with quiet(), memory_suffices(f"loading {source}"):
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=torch.float32, output_loading_info=True, **options
            )
    except ModelError:
        raise
    except Exception as error:  # transformers raises nearly anything
        raise ModelError(f"{source} cannot be loaded as a causal language model ({_first_line(error)})") from error
    if found["missing_keys"]:
        lacking = sorted(found["missing_keys"])[0]
        raise ModelError(
            f"{source} is no causal language model: it lacks {lacking}, which would be drawn at random; "
            "give a model that continues texts"
        )
    model = _plain(model, transformers)
    if not _is_causal(model):
        raise ModelError(f"{source} is no causal language model: what it says of a token depends on those behind it")
    if not _steps(model):
        raise ModelError(
            f"{source} cannot be sampled from token by token as transformers' models that attend to keys and values "
            f"can (it is a {model.config.model_type}); a model of Mamba's kind, say, cannot be tuned here"
        )
    return Causal(model, tokenizer, source)


def must_load(source: str, tokens: int = 0, chat: bool = False) -> None:
    """Refuse a folder or a file whose configuration or tokenizer cannot be read, without reading the weights.

    Args:
        tokens: that a prompt and its completion may have.
        chat: whether prompts are turns of a dialogue.

    Raises:
        ModelError: it cannot be.
    """
    transformers = _transformers()
    place, options = _place(source)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(place, **options)
    except Exception as error:
        raise ModelError(f"{source} has a config.json that cannot be read ({_first_line(error)})") from error
    must_reach(getattr(config.get_text_config(), "max_position_embeddings", None), tokens, source)
    must_have_turns(_tokenizer(source).chat_template, chat, source)


def must_have_turns(template: object, chat: bool, source: str) -> None:
    """Refuse a model without a chat template where prompts should be turns of a dialogue.

    Raises:
        ModelError: it has none.
    """
    if chat and not template:
        raise ModelError(f"{source} has no chat template; leave --chat out, or give a model that knows dialogues")


def must_reach(most: int | None, tokens: int, source: str) -> None:
    """Refuse a model that reads no more than so many tokens, if it has a bound, where there may be more.

    Raises:
        ModelError: it does not reach so far.
    """
    if most is not None and tokens > most:
        raise ModelError(
            f"{source} reads {most} tokens at most, and a prompt with its completion may have {tokens}; lower "
            "--prompt-tokens or --response-tokens"
        )


def _place(source: str) -> tuple[str, dict[str, str]]:
    """Where transformers is to look, and what to tell it beside."""
    path = Path(source).expanduser()
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{source} holds adapters; merge them into their model (merge_and_unload) and save that")
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), {"gguf_file": path.name}
    if path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(f"{source} is no model: it has no config.json; give a folder that save_pretrained wrote")
        return str(path), {}
    if is_hub_id(source):
        return source, {}
    raise ModelError(f"{source} does not exist; give a model's folder, a GGUF file, a hub's id, or leave --model out")


def _tokenizer(source: str) -> Any:
    """Its tokenizer, which has a token that ends a text."""
    place, options = _place(source)
    try:
        with quiet():
            tokenizer = _transformers().AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        todo = "save it beside the model"
        if is_hub_id(source):
            todo = "a hub's id needs a network, or its files in the hub's cache; if this is a folder, it does not exist"
        raise ModelError(f"{source} has no tokenizer that can be loaded ({_first_line(error)}); {todo}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {source} has no token that ends a text; set its eos_token and save it again"
        )
    return tokenizer


@torch.no_grad()
def _is_causal(model: Any) -> bool:
    """Whether another last token leaves what is said of those before it as it was."""
    first, second = model(torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1]])).logits[:, :-1]
    return bool((first - second).abs().max() <= BY_ROUNDING * first.abs().max())


@torch.no_grad()
def _steps(model: Any) -> bool:
    """Whether it says the same of a text token by token, behind padding, as of the whole."""
    begun, mask = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    cached = Cached(model)
    try:
        cached.begin(begun, mask, 1, 2)
        stepped = cached.step(torch.tensor([[2], [0]]))
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError):  # it knows no such cache
        return False
    whole = torch.cat([model(torch.tensor(text)).logits[:, -1] for text in ([[1, 2]], [[1, 2, 0]])])
    return bool((stepped - whole).abs().max() <= BY_ROUNDING * whole.abs().max())


@contextlib.contextmanager
def memory_suffices(doing: str) -> Iterator[None]:
    """Inside, much memory is taken.

    Raises:
        ModelError: there was not as much.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error).lower()
        if not isinstance(error, MemoryError) and "allocate" not in words and "out of memory" not in words:
            raise
        raise ModelError(
            f"memory does not suffice for {doing} ({_first_line(error)}); use a smaller --model, or other programs less"
        ) from error


def is_hub_id(source: str) -> bool:
    """Whether this can only be the name of a model on a hub: owner/name, and nothing that exists here."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists()


def load_encoder(source: str) -> tuple[Any, Any]:
    """A frozen text encoder and its tokenizer, from a folder or a hub's id.

    Raises:
        ModelError: it cannot be loaded.
    """
    transformers = _transformers()
    try:
        with quiet():
            model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise ModelError(f"{source} cannot be loaded as a text encoder ({_first_line(error)})") from error
    if tokenizer.pad_token is None:  # any token will do: what is filled up is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {source} has no token to fill up with; set its pad_token and save it again")
    model.eval()
    return model, tokenizer


def _plain(model: Any, transformers: Any) -> Any:
    """The model without what a GGUF file left on it, in evaluation mode: tuning never uses dropout."""
    if getattr(model, "hf_quantizer", None) is not None or hasattr(model.config, "quantization_config"):
        weights = model.state_dict()
        config = type(model.config).from_dict(
            {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
        )
        fresh = type(model)(config)
        fresh.load_state_dict(weights)
        fresh.generation_config = transformers.GenerationConfig.from_model_config(config)
        model = fresh
    model.eval()
    return model


def adapted(model: Any, rank: int | None) -> Any:
    """The model to tune: with adapters of a rank (peft), or with all its weights if that is 0."""
    if rank is None:
        rank = LORA_RANK if sum(p.numel() for p in model.parameters()) > LARGE else 0
    if rank == 0:
        return model
    try:
        import peft
    except ImportError as error:
        raise ModelError("tuning adapters needs peft: pip install 'backflip[lm]'") from error
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
    )
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what peft calls in transformers
        return peft.get_peft_model(model, config)


@contextlib.contextmanager
def original_of(policy: Any) -> Iterator[None]:
    """Inside, a model with adapters is the original: they are switched off."""
    if hasattr(policy, "disable_adapter"):
        with policy.disable_adapter():
            yield
    else:
        yield


def arrays(model: Any) -> dict[str, Array]:
    """The weights that tuning moves, by name."""
    return {name: whole(p.detach()).cpu().numpy() for name, p in model.named_parameters() if p.requires_grad}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be spread over processes as one that is not; then all of them have to ask for it together."""
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def spread_as(content: torch.Tensor, like: Any) -> torch.Tensor:
    """A tensor spread over processes as another is, if that is; all of them have to call this together."""
    if not hasattr(like, "full_tensor"):
        return content
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(content, like.device_mesh, like.placements)


def fingerprint(original: Any) -> str:
    """A name for the weights that tuning does not move: two models of one shape have different ones."""
    digest = hashlib.sha256()
    for name, p in original.named_parameters():
        if not p.requires_grad:
            digest.update(name.encode())
            digest.update(p.detach().flatten()[:FINGERPRINT].cpu().numpy().tobytes())
    return digest.hexdigest()


def identity(model: Any) -> str:
    """A name for all the weights of a model as it was loaded, before any are tuned or have adapters."""
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().flatten()[:FINGERPRINT].cpu().numpy().tobytes())
    return digest.hexdigest()


def put_back(model: Any, saved: dict[str, Array], where: Path) -> None:
    """Set the weights that tuning moves to what `arrays` gave.

    Raises:
        ModelError: they are of another model.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            if name not in saved or saved[name].shape != tuple(p.shape):
                raise ModelError(f"{where} was tuned from another model: {name} differs; give the model it began with")
            p.copy_(spread_as(torch.from_numpy(saved[name]), p))


def _transformers() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers
    except ImportError as error:
        raise ModelError("tuning a language model needs transformers: pip install 'backflip[lm]'") from error
    return transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and reports of transformers."""
    transformers = _transformers()
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
