"""What a run may throw away, so that its directory stays within a bound however long it goes on.

Queries that were taken back before anybody saw them, with their drawings; what killed writers left; notes that nobody
granted; and, where that is not enough, drawings of queries that are answered, the oldest first: they can be drawn again
from the segments' states. Poses, their sheet and their description go together, geometry when no poses are left.
"""

import logging
import re
import time
from pathlib import Path

from backflip.rundir import RunDir
from backflip.store import Store

LEFT_SECONDS = 600.0
"""A file that nobody speaks of is thrown away when it has been there so long: sooner, somebody may be about to."""
_CLIP = re.compile(r"([0-9a-f]{64})\.(?:sheet\.)?[a-z]+")
_log = logging.getLogger(__name__)


def tidy(run: RunDir, store: Store, most_bytes: int) -> int:
    """Throw away what a run does not need; return how many bytes its directory takes now."""
    store.forget_unseen()
    drawn = store.drawn()
    files = _files_by_clip(run.clips)
    known = {clip for _, clip, _ in drawn}
    strays = [file for clip, its in files.items() if clip not in known for file in its]
    strays += [] if any(run.clips.glob("*.poses")) else run.clips.glob("*.geometry.json")
    strays += run.wanted.glob("*")
    half_written = [file for folder in (run.path, run.clips, run.path / "now") for file in folder.glob(".*.tmp")]
    for file in [*strays, *half_written]:
        _remove(file, if_older=LEFT_SECONDS)
    size = _size(run.path)
    if size > most_bytes:
        size -= _make_room(store, drawn, files, size - most_bytes)
    if size > most_bytes:
        _log.warning(
            "%s takes %.0f MB, more than its bound of %.0f MB, without any drawing that could go; raise disk_megabytes "
            "or lower ask.recent",
            run.path,
            size / 1e6,
            most_bytes / 1e6,
        )
    return size


def _make_room(
    store: Store, drawn: list[tuple[int, str, bool]], files: dict[str, list[Path]], wanted_bytes: int
) -> int:
    """Throw away drawings that nobody will be shown soon, the oldest first; return how many bytes that gave."""
    soon = {clip for _, clip, shown_soon in drawn if shown_soon}
    freed, doomed = 0, dict[str, list[int]]()
    for number, clip, _ in drawn:
        if clip in soon or clip not in files:
            continue
        if clip not in doomed and freed >= wanted_bytes:
            break
        if clip not in doomed:
            freed += sum(_bytes(file) for file in files[clip])
        doomed.setdefault(clip, []).append(number)
    store.forget_clips([number for numbers in doomed.values() for number in numbers])
    for clip in doomed:
        for file in files[clip]:
            _remove(file)
    return freed


def _files_by_clip(clips: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in clips.iterdir():
        match = _CLIP.fullmatch(file.name)
        if match:
            found.setdefault(match[1], []).append(file)
    return found


def _remove(file: Path, if_older: float | None = None) -> None:
    try:
        if if_older is None or time.time() - file.stat().st_mtime > if_older:
            file.unlink()
    except FileNotFoundError:
        return


def _size(path: Path) -> int:
    return sum(_bytes(file) for file in path.rglob("*"))


def _bytes(file: Path) -> int:
    """Its size; 0 where it went away while we looked, or is no file."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0


__all__ = ["tidy"]
