"""What clips are made of, by names that are hashes; and sheets for browsers that cannot draw poses."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response
from pydantic import TypeAdapter, ValidationError

from backflip.files import CannotWrite
from backflip.wanted import CLIP, want
from backflip.web import messages as m
from backflip.web.context import PICTURES, SUFFIX, Context, Here
from backflip.web.roles import needs

SHEET = TypeAdapter(m.Sheet)
Hash = Annotated[str, InPath(pattern=r"^[0-9a-f]{64}$")]
clips = APIRouter(dependencies=[needs(None)])


@clips.get("/clips/{clip}")
def clip_file(here: Here, clip: str) -> Response:
    """The poses or the sprite sheet of a clip that the store knows; it is named by its hash, so it never changes."""
    if _is_known(here, clip):
        for mime, suffix in SUFFIX.items():
            if (path := here.run.clips / (clip + suffix)).is_file():
                return _for_ever(path, mime)
    raise HTTPException(404, "There is no such clip.")


@clips.get("/geometries/{geometry}")
def geometry_file(here: Here, geometry: str) -> Response:
    """What the parts of a robot are, for all clips that say so."""
    path = here.run.clips / f"{geometry}.geometry.json"
    if CLIP.fullmatch(geometry) and path.is_file():
        return _for_ever(path, "application/json")
    raise HTTPException(404, "There is no such geometry.")


@clips.get("/sheets/{clip}")
def sheet_file(here: Here, clip: str) -> Response:
    """The sheet that was drawn from the poses of a clip."""
    if _is_known(here, clip) and (sheet := _sheet(here, clip)):
        return _for_ever(here.run.clips / (clip + PICTURES[sheet.mime]), sheet.mime)
    raise HTTPException(404, "There is no such sheet.")


@clips.get("/api/sheets/{clip}")
def sheet(here: Here, clip: Hash) -> m.Drawing:
    """How to show the sheet of a clip of poses, if it is drawn."""
    return m.Drawing(sheet=_sheet(here, clip))


@clips.post("/api/sheets")
def wish(here: Here, given: m.Wish) -> m.Drawing:
    """Have the sheet of a clip of poses drawn; this process cannot do that, so a note asks for it."""
    if not (_is_known(here, given.clip) and (here.run.clips / f"{given.clip}.poses").is_file()):
        raise HTTPException(404, "There are no such poses.")
    drawn = _sheet(here, given.clip)
    if drawn is None:
        try:
            want(here.run.wanted, given.clip)
        except CannotWrite as error:
            raise HTTPException(503, "The server cannot write; its disk may be full.") from error
    return m.Drawing(sheet=drawn)


def _is_known(here: Context, clip: str) -> bool:
    return bool(CLIP.fullmatch(clip)) and here.store.has_clip(clip)


def _sheet(here: Context, clip: str) -> m.Film | None:
    """None where it is not there, or not whole."""
    try:
        about = SHEET.validate_json((here.run.clips / f"{clip}.sheet.json").read_bytes())
        (here.run.clips / (clip + PICTURES[about.mime])).stat()
    except (OSError, ValidationError):
        return None
    return m.Film(url=f"/sheets/{clip}", **about.model_dump())


def _for_ever(path: Path, mime: str) -> Response:
    if path.is_symlink():
        raise HTTPException(404, "There is no such file.")
    return FileResponse(path, media_type=mime, headers={"cache-control": "private, max-age=31536000, immutable"})
