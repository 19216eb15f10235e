"""Files that are written whole or not at all, and arrays in them: safetensors and JSON, never pickle."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as _to_safetensors

from backflip.errors import Mendable


class DamagedFile(Mendable):
    """A file of ours that cannot be read; the message says which, why and what to do."""


class CannotWrite(Mendable, OSError):
    """The disk is full, or not ours to write on; the message says which file and what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, a file is written.

    Raises:
        CannotWrite: it cannot be.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written ({error.strerror or error}); see that its disk has room, and who may write "
            "there; what was there before is as it was"
        ) from error


def write_whole(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Args:
        durable: also force it to the disk before the name changes.

    Raises:
        CannotWrite: the disk is full, or not ours to write on.
    """
    with writing(path), whole_file(path, durable) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write bit by bit, which takes the place of `path` when all is written, or never.

    Args:
        durable: also force it to the disk before the name changes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Force a directory's entries (new names, renames) to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_arrays(
    path: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any] | None = None, durable: bool = True
) -> None:
    """Write named arrays and a JSON-able record into one safetensors file."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = _to_safetensors(contiguous, metadata={"meta": json.dumps(meta or {}, sort_keys=True)})
    write_whole(path, content, durable)


def load_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Raises:
        DamagedFile: the file is missing, truncated or not ours.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["meta"])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise DamagedFile(f"{path} is missing") from error
    except KeyError as error:
        raise DamagedFile(f"{path} was not written by backflip (it has no record of its own); remove it") from error
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} cannot be read ({error}); delete it to fall back to an earlier one") from error
