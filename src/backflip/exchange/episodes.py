"""Segments as episodes of a Minari dataset, with the events in a file beside them that points into the episodes.

Minari has no preferences of its own. It wants one observation more than there are actions, which a segment does not
have: its last one stands there twice.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from backflip.envs import MissingExtra, find_task
from backflip.exchange.bundle import About, Bundle, ExchangeError, Outgoing, about_as_json, about_from_json, chunk_size
from backflip.exchange.events import line, lines
from backflip.exchange.folders import new_folder
from backflip.exchange.suspicion import Wanted, must_be_about
from backflip.packing import ARRAYS, Layout
from backflip.records import Record
from backflip.segments import Array, Segments

EVENTS = "preferences.jsonl"
ABOUT = "backflip"
"""Where a dataset's metadata say what it is about."""
MOST_METADATA_BYTES = 2**25
MOST_EPISODES = 1_000_000
PADDED = ("observations", "states")
"""What is there once more after the last step."""
_NAME = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")


def place(name_or_folder: str) -> Path:
    """The folder of a dataset: Minari's own for a name such as hopper/flips-v0, else the folder that was meant."""
    if not _NAME.fullmatch(name_or_folder) or Path(name_or_folder).exists():
        return Path(name_or_folder)
    try:
        from minari.storage import get_dataset_path
    except ImportError as error:
        raise MissingExtra(_ADVICE) from error
    return Path(get_dataset_path(name_or_folder))


# ---- out


def write_episodes(name_or_folder: str, outgoing: Outgoing) -> list[Path]:
    """Write a Minari dataset of the segments, and the events that point into it; return its folder and their file.

    Raises:
        ExchangeError: there is something at that place already.
        MissingExtra: Minari is not installed.
    """
    folder = place(name_or_folder)
    called = name_or_folder if _NAME.fullmatch(name_or_folder) else re.sub(r"[^\w-]+", "-", folder.name) + "-v0"
    with new_folder(folder) as temporary:
        _write_dataset(temporary / "data", called, outgoing)
        ids = {name: episode for episode, name in enumerate(outgoing.names.values())}
        lengths = np.concatenate([some.lengths for some in outgoing.segments(states=False)])
        with (temporary / EVENTS).open("wb") as file:
            file.writelines(line(_pointing(record, ids, lengths)) for record in outgoing.events)
    return [folder, folder / EVENTS]


def _write_dataset(folder: Path, called: str, outgoing: Outgoing) -> None:
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise MissingExtra(_ADVICE) from error
    seen, done = _spaces(outgoing)
    # Pictures as JPEG, Minari's default, would come back changed.
    storage = MinariStorage.new(folder, seen, done, data_format="hdf5", jpeg_encoding=False)
    storage.update_metadata(
        {
            "dataset_id": called,
            "minari_version": minari.__version__,
            "algorithm_name": "backflip",
            "description": f"Segments of {outgoing.about.task} that teachers compared: {outgoing.about.question}",
            ABOUT: {**about_as_json(outgoing.about), "layout": json.loads(outgoing.layout.to_json())},
        }
    )
    storage.update_episodes(EpisodeBuffer(**episode) for some in outgoing.segments() for episode in _episodes(some))


def _spaces(outgoing: Outgoing) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The task's spaces, with the type in which observations and actions are stored."""
    env = find_task(outgoing.about.task).make()
    env.close()
    types = {name: dtype for name, dtype, _ in outgoing.layout.columns}
    return _as_stored(env.observation_space, types["observations"]), _as_stored(env.action_space, types["actions"])


def _as_stored(space: gym.Space[Any], dtype: str) -> gym.Space[Any]:
    if not isinstance(space, gym.spaces.Box):
        return space
    return gym.spaces.Box(space.low.astype(dtype), space.high.astype(dtype), dtype=np.dtype(dtype).type)


def _episodes(segments: Segments) -> Iterator[dict[str, Any]]:
    for i, length in enumerate(segments.lengths.tolist()):
        arrays = {name: getattr(segments, name)[i, :length] for name in ARRAYS}
        arrays |= {name: np.concatenate([arrays[name], arrays[name][-1:]]) for name in PADDED}
        last = np.zeros(length, bool)
        last[-1] = True
        steps = np.full(length + 1, segments.policy_steps[i])
        yield {
            "observations": arrays["observations"],
            "actions": arrays["actions"],
            "rewards": arrays["true_rewards"],
            "terminations": np.zeros(length, bool),
            "truncations": last,
            "infos": {"policy_steps": steps, **({"states": arrays["states"]} if arrays["states"].size else {})},
        }


def _pointing(record: Record, ids: dict[str, int], lengths: Array) -> Record:
    """An event whose query also says which steps of which episodes were compared."""
    asked = record["query"]
    where = {
        f"{side}_episode": {"episode_id": ids[asked[side]], "t0": 0, "t1": int(lengths[ids[asked[side]]])}
        for side in ("left", "right")
    }
    return {**record, "query": {**asked, **where}}


# ---- in


def read_episodes(folder: Path, wanted: Wanted) -> Bundle:
    """The segments and events of a dataset that `write_episodes` made.

    Read without Minari: of a dataset whose metadata lack its spaces, Minari makes the environment that they name, and
    an environment's name may be that of any program.

    Raises:
        ExchangeError: something is missing, damaged or not ours.
        MissingExtra: h5py is not installed.
    """
    about = _about(folder / "data" / "metadata.json", wanted)
    segments = _segments(folder / "data" / "main_data.hdf5", wanted.layout)
    return Bundle(str(folder), segments, list(lines(folder / EVENTS)), about)


def _about(path: Path, wanted: Wanted) -> About:
    try:
        if path.stat().st_size > MOST_METADATA_BYTES:
            raise ExchangeError(f"{path} is larger than {MOST_METADATA_BYTES:,} bytes; it is no dataset of ours")
        metadata = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ExchangeError(f"{path} is missing or damaged ({error})") from error
    found = metadata.get(ABOUT) if isinstance(metadata, dict) else None
    about = about_from_json(path, found)
    assert isinstance(found, dict)  # or about_from_json would have said so
    must_be_about(str(path), about, wanted)
    if found.get("layout") != json.loads(wanted.layout.to_json()):
        raise ExchangeError(f"the segments of {path.parents[1]} differ from those of the run ({wanted.layout})")
    return about


def _segments(path: Path, layout: Layout) -> Iterator[Segments]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra(_ADVICE) from error
    size = chunk_size(layout)
    try:
        with h5py.File(path, "r") as file:
            episodes = len(file)
            if episodes > MOST_EPISODES:
                raise ExchangeError(f"{path} has {episodes:,} episodes; the most are {MOST_EPISODES:,}")
            for start in range(0, episodes, size):
                numbers = range(start, min(start + size, episodes))
                yield _stacked([_segment(path, file, f"episode_{i}", layout) for i in numbers])
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ExchangeError(f"{path} is missing, damaged or not ours ({' '.join(str(error).split())[:200]})") from error


def _segment(path: Path, file: Any, episode: str, layout: Layout) -> dict[str, Array]:
    """One episode, padded by its own last step to the length of a segment."""
    keys = {"observations": "observations", "actions": "actions", "true_rewards": "rewards", "states": "infos/states"}
    arrays: dict[str, Array] = {}
    length = 0
    for name, dtype, (steps, *shape) in (layout.columns[2], *layout.columns[:2], *layout.columns[3:]):
        if name == "states" and 0 in shape:
            arrays[name] = np.zeros((steps, *shape), dtype)
            continue
        data = _own_data(path, file, f"{episode}/{keys[name]}")
        length = length or (data.shape[0] if data.shape else 0)
        there = (length + (name in PADDED), *shape)
        if data.shape != there or data.dtype.str != dtype or not 1 <= length <= steps:
            raise ExchangeError(
                f"{path}: {name} of {episode} are {data.shape} {data.dtype}; they should be {there} {np.dtype(dtype)}, "
                f"with 1 to {steps} steps"
            )
        arrays[name] = data[:length][np.minimum(np.arange(steps), length - 1)]
    taken = _own_data(path, file, f"{episode}/infos/policy_steps")
    if taken.shape != (length + 1,) or taken.dtype.str != "<i8":
        raise ExchangeError(f"{path}: policy_steps of {episode} are {taken.shape} {taken.dtype}, not one int64 a step")
    return {**arrays, "policy_steps": taken[0], "lengths": np.int64(length)}


def _own_data(path: Path, file: Any, name: str) -> Any:
    """A dataset that lies in this very file: HDF5 can also point to any other file of the machine."""
    import h5py

    place = file
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise ExchangeError(f"{path} has no {name} of its own; it is damaged, or not written by `backflip export`")
        place = place[part]
    if not isinstance(place, h5py.Dataset) or place.external or place.is_virtual:
        raise ExchangeError(f"{path}: {name} is not data of this file")
    return place


def _stacked(parts: list[dict[str, Array]]) -> Segments:
    columns = {name: np.stack([part[name] for part in parts]) for name in (*ARRAYS, "policy_steps", "lengths")}
    return Segments(ids=np.full(len(parts), -1, np.int64), **columns)


_ADVICE = "Minari datasets need minari and h5py, which are not installed: pip install 'backflip[data]'"
