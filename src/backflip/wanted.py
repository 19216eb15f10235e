"""Sheets that a page asks for because its browser cannot draw: notes in the run directory, which asking grants."""

import re
from pathlib import Path

from backflip.files import writing

MOST = 64
"""Notes at a time; a page that finds no room asks again."""
CLIP = re.compile(r"[0-9a-f]{64}")
"""A clip's name."""


def want(folder: Path, clip: str) -> None:
    """Leave a note that somebody needs the sheet of a clip, if there is room for it.

    Raises:
        CannotWrite: the disk is full, or not ours to write on.
    """
    assert CLIP.fullmatch(clip), clip
    with writing(folder):
        folder.mkdir(exist_ok=True)
        if len(list(folder.iterdir())) < MOST:
            (folder / clip).touch()


def wanted(folder: Path) -> list[str]:
    """The clips whose sheets are needed, who asked first first."""
    if not folder.is_dir():
        return []
    notes = {note.name: note.stat().st_mtime for note in folder.iterdir() if CLIP.fullmatch(note.name)}
    return sorted(notes, key=lambda clip: notes[clip])


def granted(folder: Path, clip: str) -> None:
    """Throw a note away: its sheet is there, or never will be."""
    (folder / clip).unlink(missing_ok=True)
