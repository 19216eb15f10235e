"""What all routes work on, and where a clip's drawing lies."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from backflip.rundir import RunDir
from backflip.showings import answers_given
from backflip.store import Store
from backflip.teachers.people import PeopleConfig
from backflip.web import messages as m
from backflip.web.estimates import Estimates
from backflip.web.lending import Lent
from backflip.web.security import Session, session

PICTURES = {"image/webp": ".webp", "image/png": ".png"}
SUFFIX = {"application/x-backflip-poses": ".poses", **PICTURES}


@dataclass(frozen=True)
class Context:
    """What all routes work on."""

    run: RunDir
    store: Store
    settings: m.Settings
    people: PeopleConfig
    name: str
    """The run's public short name, under which browsers keep things for it."""
    files: dict[str, Path]
    """The pages' own files by the name under /static; a client's words never become a path."""
    estimates: Estimates = field(default_factory=Estimates)
    lent: Lent = field(default_factory=Lent)


def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Here = Annotated[Context, Depends(_context)]
Visitor = Annotated[Session, Depends(session)]


def counts_of(store: Store) -> m.Counts:
    """How many queries and answers there are."""
    counted = store.counts()
    return m.Counts(**{name: getattr(counted, name) for name in m.Counts.model_fields})


def you_of(store: Store, visitor: Session) -> m.You:
    """Whom the page talks to, and how many answers theirs are."""
    quota = next((account.quota for account in store.accounts() if account.name == visitor.annotator), None)
    with store.reading() as c:
        given = answers_given(c, visitor.annotator)
    return m.You(name=visitor.annotator, role=visitor.role, given=given, quota=quota)


def outside(run: RunDir) -> m.Outside:
    """What the parts of a run say of themselves, for everybody."""
    return m.Outside(
        act=m.Acting.model_validate(run.told("act")),
        ask=m.Due.model_validate(run.told("ask")),
        fit=m.Learned.model_validate(run.told("fit")),
        run=m.Whole.model_validate(run.told("run")),
        time=time.time(),
    )


def described(clips: Path, clip: str) -> m.Clip:
    """How to show a clip; a text comes whole, a film says where its drawing or its poses lie.

    Raises:
        OSError: its drawing, its poses, their geometry or the description of it is missing.
        ValidationError: the description is damaged.
    """
    about = m.DESCRIPTION.validate_json((clips / f"{clip}.json").read_bytes())
    if isinstance(about, m.Text):
        return about
    (clips / (clip + SUFFIX[about.mime])).stat()
    if isinstance(about, m.Poses):
        (clips / f"{about.geometry}.geometry.json").stat()
        return m.PosedFilm(
            url=f"/clips/{clip}",
            geometry_url=f"/geometries/{about.geometry}",
            sheet_url=f"/api/sheets/{clip}",
            **about.model_dump(),
        )
    return m.Film(url=f"/clips/{clip}", **about.model_dump())
