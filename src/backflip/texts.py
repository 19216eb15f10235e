"""Text as segments: prompt and completion among a segment's states, and as the clip that people read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from backflip.files import write_whole
from backflip.segments import Array

MIME = "text/plain"
"""What the metadata of a clip say that is read and not watched."""
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Text:
    """A completion, and the prompt that it completes."""

    prompt: str
    completion: str


def pack_texts(texts: Sequence[Text], steps: int, room: int) -> UInt8[np.ndarray, "n k s"]:
    """Texts as the states of segments of `steps` steps.

    Args:
        room: bytes for one text, the same for all segments of a store; a text that needs more loses the beginning of
            its prompt, then the end of its completion.

    Raises:
        ValueError: there is room for nothing.
    """
    if steps < 1 or room < 2 * _LENGTH_BYTES + 1:
        raise ValueError(
            f"{room} bytes and {steps} steps hold no text; give at least {2 * _LENGTH_BYTES + 1} and one step"
        )
    a_step = -(-room // steps)
    states = np.zeros((len(texts), steps * a_step), np.uint8)
    for row, text in zip(states, texts, strict=True):
        completion = text.completion.encode("utf-8", "replace")[: room - 2 * _LENGTH_BYTES]
        left = room - 2 * _LENGTH_BYTES - len(completion)
        prompt = text.prompt.encode("utf-8", "replace")
        prompt = prompt[len(prompt) - min(left, len(prompt)) :]
        lengths = len(prompt).to_bytes(_LENGTH_BYTES, "little") + len(completion).to_bytes(_LENGTH_BYTES, "little")
        content = lengths + prompt + completion
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return states.reshape(len(texts), steps, a_step)


def unpack_text(states: UInt8[np.ndarray, "k s"]) -> Text:
    """What `pack_texts` made of one text.

    Raises:
        ValueError: these are not the states of a text.
    """
    content = np.ascontiguousarray(states).tobytes()
    prompt, completion = (int.from_bytes(content[i : i + _LENGTH_BYTES], "little") for i in (0, _LENGTH_BYTES))
    begin = 2 * _LENGTH_BYTES
    if begin + prompt + completion > len(content):
        raise ValueError(
            f"states of the shape {states.shape} hold no text; only segments of a language model can be read"
        )
    middle = begin + prompt
    return Text(
        content[begin:middle].decode("utf-8", "replace"),
        content[middle : middle + completion].decode("utf-8", "replace"),
    )


def are_texts(states: Array) -> bool:
    """Whether the states [n k *s] of segments hold texts rather than what a simulator needs, or frames."""
    return bool(states.dtype == np.uint8 and states.ndim == 3)


def save_text(directory: Path, text: Text) -> str:
    """Write a text as a clip: one JSON file, named by the SHA-256 of its content; return that name."""
    content = json.dumps({"mime": MIME, "prompt": text.prompt, "completion": text.completion}, sort_keys=True).encode()
    name = hashlib.sha256(content).hexdigest()
    write_whole(directory / f"{name}.json", content)
    return name
