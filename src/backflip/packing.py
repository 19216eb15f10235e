"""Segments as rows of bytes, and back: a column of many rows becomes one array without touching single values."""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backflip.segments import Array, Segments

ARRAYS = ("observations", "actions", "true_rewards", "states")


@dataclass(frozen=True)
class Layout:
    """Type and shape of one segment's arrays, the same for all segments of a store."""

    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    """(name, dtype, shape) of each array."""

    @classmethod
    def of(cls, segments: Segments) -> "Layout":
        """The layout of these segments."""
        arrays = ((name, getattr(segments, name)) for name in ARRAYS)
        return cls(tuple((name, array.dtype.str, array.shape[1:]) for name, array in arrays))

    @property
    def segment_bytes(self) -> int:
        """Bytes of one segment, not compressed."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in self.columns)

    def to_json(self) -> str:
        """As text."""
        return json.dumps(self.columns)

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """From text."""
        return cls(tuple((name, dtype, tuple(shape)) for name, dtype, shape in json.loads(text)))

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {'x'.join(map(str, shape))} {np.dtype(dtype).name}" for name, dtype, shape in self.columns
        )


def pack(segments: Segments, layout: Layout) -> list[dict[str, Any]]:
    """One dictionary of column values a segment; images are compressed, numbers hardly would be."""
    rows: list[dict[str, Any]] = [
        {"policy_steps": int(steps), "length": int(length)}
        for steps, length in zip(segments.policy_steps, segments.lengths, strict=True)
    ]
    for name, dtype, _ in layout.columns:
        for row, array in zip(rows, getattr(segments, name), strict=True):
            row[name] = zlib.compress(array.tobytes(), 1) if _is_image(dtype) else array.tobytes()
    return rows


def unpack(rows: Sequence[Any], layout: Layout) -> Segments:
    """The segments in these rows; rows without `states` give states of size 0."""
    n = len(rows)
    arrays: dict[str, Array] = {}
    for name, dtype, shape in layout.columns:
        if not all(hasattr(row, name) for row in rows[:1]):
            arrays[name] = np.zeros((n, shape[0], 0), np.float32)
            continue
        parts = [getattr(row, name) for row in rows]
        # A bytearray, because arrays over bytes cannot be written to, which torch warns about.
        joined = bytearray().join(zlib.decompress(part) if _is_image(dtype) else part for part in parts)
        arrays[name] = np.frombuffer(joined, dtype).reshape(n, *shape)
    return Segments(
        ids=np.array([row.id for row in rows], np.int64),
        policy_steps=np.array([row.policy_steps for row in rows], np.int64),
        lengths=np.array([row.length for row in rows], np.int64),
        **arrays,
    )


def _is_image(dtype: str) -> bool:
    return np.dtype(dtype) == np.uint8
