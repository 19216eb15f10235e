"""Whatever somebody wants to import: what kind of thing it is, and all of it brought in or nothing."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from backflip.exchange.bring import Here, Imported, bring
from backflip.exchange.bring_texts import ROOM, Features, answered, bring_texts, prepared
from backflip.exchange.bundle import Bundle, ExchangeError, outgoing
from backflip.exchange.clips import read_clips
from backflip.exchange.episodes import place, read_episodes
from backflip.exchange.events import read_events
from backflip.exchange.suspicion import Wanted, wanted_by
from backflip.exchange.table import read_preferences
from backflip.exchange.text_files import Decode, holds_texts
from backflip.records import Brought
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store


def import_all(
    run: RunDir,
    store: Store,
    paths: list[Path],
    ask: int = 0,
    features: Features | None = None,
    decode: Decode | None = None,
    room: int = ROOM,
) -> Imported:
    """Bring into a run what lies at some places, in one transaction: all of it, or where something is wrong, nothing.

    Args:
        ask: put so many pairs of the new segments, drawn at random, to the run's teacher; none of texts,
            whose prompts differ.
        features: what r̂ reads of a text; None where the run is none of texts, or nothing can make them.
        decode: makes a text of tokens, where a file of texts has these.
        room: bytes for a text, where the store has none yet.

    Raises:
        ExchangeError, StoreError, RunError, MissingExtra: something is wrong; the message says what.
    """
    texts = [path for path in paths if holds_texts(path)]
    if texts and features is None:
        raise ExchangeError(
            f"{texts[0]} holds texts, which go into a run of a language model, with the extra `lm`: "
            "pip install 'backflip[lm]'"
        )
    others = [path for path in paths if path not in texts]
    wanted = wanted_by(run, store) if others else None
    with ExitStack() as open_runs:
        bundles = [_read(path, run, wanted, open_runs) for path in others] if wanted else []
        said = answered(store) if texts else {}
        read = [prepared(store, path, features, decode, room, said) for path in texts] if features else []
        layouts = [wanted.layout] if wanted else [one.layout for one in read if one.layout]
        here = Here(store, layouts[0]) if layouts else None
        with store.transaction():  # a run that goes on waits for it
            parts = [bring(store, bundle, wanted, here) for bundle in bundles] if wanted else []
            clips = [number for part in parts for number in part.segments]
            parts += [bring_texts(store, one, here) for one in read]
            new = [number for part in parts for number in part.segments]
            asked = _ask(store, clips, ask, int(run.settings.get("seed", 0)))
    return Imported(
        new,
        Brought(
            queries=sum(part.brought.queries for part in parts) + asked,
            events=sum(part.brought.events for part in parts),
            known=sum(part.brought.known for part in parts),
        ),
        [said for part in parts for said in part.passed_over],
    )


def _read(path: Path, run: RunDir, wanted: Wanted, open_runs: ExitStack) -> Bundle:
    """What lies at a place, told by its name and by what is in it."""
    by_suffix: dict[str, Callable[[Path], Bundle]] = {".jsonl": read_events, ".parquet": read_preferences}
    if path.suffix in by_suffix and not path.is_dir():
        return by_suffix[path.suffix](path)
    if path.suffix == ".npz" and not path.is_dir():
        return read_clips(path, wanted)
    if (path / "run.json").is_file():
        return _read_run(path, run, open_runs)
    folder = place(str(path))
    if (folder / "data" / "metadata.json").is_file():
        return read_episodes(folder, wanted)
    if path.is_dir() and any(path.glob("*.npz")):
        return read_clips(path, wanted)
    if path.exists():
        raise ExchangeError(
            f"{path} is nothing that can be imported: .jsonl or .parquet of `backflip export`, a Minari dataset of it, "
            "another run, or a folder of clips (.npz)"
        )
    raise ExchangeError(f"{path} does not exist")


def _read_run(path: Path, run: RunDir, open_runs: ExitStack) -> Bundle:
    if path.resolve() == run.path.resolve():
        raise ExchangeError(f"{path} is the run itself; name another one")
    other = RunDir.open(path)
    with _damage_told(path):
        store = open_runs.enter_context(closing(other.store(check=True)))
        bundle = outgoing(other, store).bundle(str(path))
    return replace(bundle, segments=_guarded(path, bundle.segments))


def _guarded(path: Path, segments: Iterable[Segments]) -> Iterator[Segments]:
    with _damage_told(path):
        yield from segments


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, zlib.error) as error:
        raise ExchangeError(f"the database of {path} is damaged ({error!r:.200}); restore a copy") from error


def _ask(store: Store, new: list[int], count: int, seed: int) -> int:
    """Put different pairs of new segments to the teacher, as many of them as there are."""
    count = min(count, len(new) * (len(new) - 1) // 2)
    rng = np.random.default_rng([seed, *new[:1]])
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < count:
        left, right = sorted(rng.choice(len(new), 2, replace=False).tolist())
        pairs[new[left], new[right]] = None
    return len(store.ask(np.array(list(pairs), np.int64).reshape(-1, 2))) if pairs else 0
