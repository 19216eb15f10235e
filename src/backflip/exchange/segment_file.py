"""Segments in one .npz: the companion of a file that speaks of them by name."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backflip.exchange.bundle import (
    About,
    ExchangeError,
    Outgoing,
    about_as_json,
    about_from_json,
    chunk_size,
    written_whole,
)
from backflip.exchange.npz import Header, Npz, opened, write_arrays
from backflip.packing import ARRAYS, Layout
from backflip.segments import Array, Segments

SUFFIX = ".segments.npz"
ABOUT = "about.json"
MOST_ABOUT_BYTES = 100_000
MOST_SEGMENTS = 1_000_000
MOST_SEGMENT_BYTES = 2**28
NUMBERS = ("policy_steps", "lengths")


def companion(path: Path) -> Path:
    """Where the segments lie that a file speaks of."""
    return path.with_suffix(SUFFIX)


def must_have_companion(path: Path) -> Path:
    """The companion of a file.

    Raises:
        ExchangeError: the file or its companion is missing.
    """
    if not path.is_file():
        raise ExchangeError(f"{path} is missing")
    if not companion(path).is_file():
        raise ExchangeError(
            f"{companion(path)} is missing; it has the segments that {path.name} speaks of: keep both together"
        )
    return companion(path)


def write_segments(path: Path, outgoing: Outgoing) -> None:
    """Write a run's segments, whole or not at all."""
    n = len(outgoing.names)
    with written_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about_as_json(outgoing.about), indent=1))
        for name in NUMBERS:
            write_arrays(archive, name, "<i8", (n,), (getattr(some, name) for some in outgoing.segments(states=False)))
        for name, dtype, shape in outgoing.layout.columns:
            parts = (getattr(some, name) for some in outgoing.segments(states=name == "states"))
            write_arrays(archive, name, dtype, (n, *shape), parts)


def read_about(path: Path) -> About:
    """What the segments are about.

    Raises:
        ExchangeError: the file is missing, damaged, or not one of ours.
    """
    with opened(path) as npz:
        try:
            found = json.loads(npz.text(ABOUT, MOST_ABOUT_BYTES))
        except (ValueError, RecursionError):
            found = None
        return about_from_json(path, found)


def read_segments(path: Path) -> Iterator[Segments]:
    """The segments, some at a time.

    Raises:
        ExchangeError: the file is missing or damaged, or its arrays do not fit together.
    """
    with opened(path) as npz:
        size = chunk_size(_layout(npz))
        columns = [npz.rows(name, size) for name in (*ARRAYS, *NUMBERS)]
        for parts in zip(*columns, strict=True):
            some: dict[str, Array] = dict(zip((*ARRAYS, *NUMBERS), parts, strict=True))
            yield Segments(ids=np.full(len(parts[0]), -1, np.int64), **some)


def _layout(npz: Npz) -> Layout:
    headers = {name: npz.header(name) for name in (*ARRAYS, *NUMBERS)}
    for name, header in headers.items():
        _must_be(npz, name, header)
    n = headers["lengths"].shape[0]
    steps = headers["true_rewards"].shape[1]
    for name, header in headers.items():
        wanted = (n,) if name in NUMBERS else (n, steps)
        if header.shape[: len(wanted)] != wanted:
            raise ExchangeError(f"{npz.path}: {name} has the shape {header.shape}; it should begin with {wanted}")
    layout = Layout(tuple((name, headers[name].dtype.str, headers[name].shape[1:]) for name in ARRAYS))
    if n > MOST_SEGMENTS or layout.segment_bytes > MOST_SEGMENT_BYTES:
        raise ExchangeError(
            f"{npz.path} has {n:,} segments of {layout.segment_bytes:,} bytes; the most are {MOST_SEGMENTS:,} "
            f"of {MOST_SEGMENT_BYTES:,}"
        )
    return layout


def _must_be(npz: Npz, name: str, header: Header) -> None:
    """See that an array has the type and the axes of its column."""
    types = {"true_rewards": "<f4", "policy_steps": "<i8", "lengths": "<i8"}
    axes = {"true_rewards": 2, "policy_steps": 1, "lengths": 1}
    if header.dtype.str != types.get(name, header.dtype.str):
        raise ExchangeError(f"{npz.path}: {name} holds {header.dtype.name}, not {np.dtype(types[name]).name}")
    if (len(header.shape) < 2 and name not in NUMBERS) or len(header.shape) != axes.get(name, len(header.shape)):
        raise ExchangeError(f"{npz.path}: {name} has the shape {header.shape}; it lacks an axis, or has one too many")
