"""A folder of somebody's own clips, one .npz each, as segments to be compared."""

from pathlib import Path

import numpy as np

from backflip.exchange.bundle import Bundle, ExchangeError
from backflip.exchange.npz import Npz, opened
from backflip.exchange.segment_file import NUMBERS
from backflip.exchange.suspicion import Wanted
from backflip.segments import Array, Segments

KNOWN = ("observations", "actions", "true_rewards", "states", "fps")
MOST_CLIPS = 100_000
SAME_PACE = 0.01
"""By how much, relatively, a clip's frames a second may differ from the task's steps a second."""


def read_clips(path: Path, wanted: Wanted) -> Bundle:
    """The clips of a folder, or of one file, cut into segments from their beginning; what remains is left out.

    A clip that is shorter than a segment becomes one short segment.

    Raises:
        ExchangeError: there are none, or one of them does not fit the run; the message says which and why.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or len(files) > MOST_CLIPS:
        raise ExchangeError(f"{path} has {len(files):,} clips (*.npz); there should be 1 to {MOST_CLIPS:,}")
    return Bundle(str(path), (_cut(file, wanted) for file in files))


def _cut(path: Path, wanted: Wanted) -> Segments:
    arrays = _arrays(path, wanted)
    steps = len(arrays["actions"])
    long = wanted.layout.columns[0][2][0]
    count = max(1, steps // long)
    rows = np.minimum(np.arange(count * long), steps - 1).reshape(count, long)
    return Segments(
        ids=np.full(count, -1, np.int64),
        policy_steps=np.zeros(count, np.int64),
        lengths=np.full(count, min(steps, long), np.int64),
        **{name: array[rows] for name, array in arrays.items()},
    )


def _arrays(path: Path, wanted: Wanted) -> dict[str, Array]:
    """Observations, actions, true rewards and states of a clip, [t ...] each, in the types of the run."""
    with opened(path) as npz:
        _must_be_a_clip(npz)
        _must_have_pace(npz, wanted)
        given = {name: npz.whole(name) for name in KNOWN[:4] if name in npz.names}
    steps = len(given["actions"]) if given["actions"].ndim else 0
    if steps == 0:
        raise ExchangeError(f"{path} has no steps; a clip has at least one")
    arrays: dict[str, Array] = {}
    for name, dtype, (_, *shape) in wanted.layout.columns:
        if name not in given or (name == "states" and 0 in shape):
            arrays[name] = _absent(path, name, dtype, (steps, *shape), wanted)
            continue
        arrays[name] = _as_stored(path, name, given[name], dtype, (steps, *shape))
    return arrays


def _must_be_a_clip(npz: Npz) -> None:
    if set(NUMBERS) <= set(npz.names):
        beside = npz.path.name.split(".")[0]
        raise ExchangeError(f"{npz.path} is the companion of {beside}.jsonl or {beside}.parquet; import that instead")
    unknown = sorted(set(npz.names) - set(KNOWN))
    if unknown:
        raise ExchangeError(f"{npz.path} has an array {unknown[0]!r}; a clip has only {', '.join(KNOWN)}")
    for name in ("observations", "actions"):
        npz.header(name)


def _must_have_pace(npz: Npz, wanted: Wanted) -> None:
    """A clip that moves faster or slower than the task would mislead whoever compares it."""
    if "fps" not in npz.names:
        return
    fps = npz.whole("fps")
    pace = wanted.facts.steps_per_second
    if fps.size != 1 or not abs(float(fps.reshape(-1)[0]) / pace - 1) <= SAME_PACE:
        raise ExchangeError(f"{npz.path} has fps {fps.tolist()}; {wanted.settings.task} makes {pace:g} steps a second")


def _absent(path: Path, name: str, dtype: str, shape: tuple[int, ...], wanted: Wanted) -> Array:
    if name == "states" and 0 not in shape:
        each = "x".join(map(str, shape[1:]))
        raise ExchangeError(
            f"{path} has no states, and cannot be drawn without; {wanted.settings.task} has {each} a step"
        )
    return np.full(shape, np.nan if name == "true_rewards" else 0, dtype)


def _as_stored(path: Path, name: str, given: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    if given.shape != shape:
        raise ExchangeError(f"{path}: {name} have the shape {given.shape}; it should be {shape}, one row a step")
    if not np.can_cast(given.dtype, dtype, "same_kind"):
        raise ExchangeError(f"{path}: {name} are {given.dtype.name}; the run has {np.dtype(dtype).name}")
    with np.errstate(over="ignore"):  # too large for its type: infinite then, and refused for that
        stored: Array = given.astype(dtype)
    return stored
