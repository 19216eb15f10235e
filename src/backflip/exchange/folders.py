"""Folders that are written for others: whole or not at all, and under a licence."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backflip.exchange.bundle import ExchangeError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` when all is written, or never.

    Raises:
        ExchangeError: there is something at that place already, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExchangeError(f"{folder} exists and is not empty; choose another place, or remove it first")
    temporary = folder.absolute().with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(folder)
    except OSError as error:
        raise ExchangeError(f"{folder} cannot be written ({error}); choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_licence(name: str) -> bool:
    """Whether a licence is named as the Hugging Face hub names them."""
    return bool(re.fullmatch(r"[A-Za-z0-9.+-]{1,60}", name))


def must_be_licence(licence: str) -> None:
    """See that a licence is named so.

    Raises:
        ExchangeError: it is not.
    """
    if not is_licence(licence):
        raise ExchangeError(f"{licence!r} names no licence; write cc-by-4.0, mit, other, ...")
