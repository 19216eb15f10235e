"""The page's app: which address does what. Routes are plain functions (they run in threads; the store blocks)."""

import logging
import math
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi import Query as InAddress
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders

from backflip import browsing
from backflip.accounts import OWNER
from backflip.preferences import Preference, Query
from backflip.rundir import RunDir, RunError
from backflip.store import Checks, Claim, Showing, Store, StoreError, new_uuid
from backflip.teachers.people import PeopleConfig, are_several
from backflip.web import messages as m
from backflip.web.admin import people
from backflip.web.clips import clips
from backflip.web.context import Context, Here, Visitor, counts_of, described, outside, you_of
from backflip.web.fours import fours
from backflip.web.limits import Guesses, Pace
from backflip.web.roles import NotAllowed, guarded, needs
from backflip.web.run_api import run_api
from backflip.web.security import RETRY_SECONDS, Gate, Hosts, Keys, Session, fingerprint, not_valid, protect

STATIC = Path(__file__).parent / "static"
MIME = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
NEWEST_GIVEN = 8
LESSONS = 10
"""Pairs of a practice round at most: a minute's work."""
MOST_ROUNDS = 20
"""How many times to look for replacements of pairs that cannot be shown, in one request."""
RETRY = {"retry-after": str(RETRY_SECONDS)}
_log = logging.getLogger(__name__)

ANYONE = [needs(None)]
"""Everybody who has a token of this run, whatever their role."""
pages = APIRouter()
labelling = APIRouter(prefix="/api", dependencies=[needs("label")])
watching = APIRouter(prefix="/api", dependencies=[needs("view")])


def create_app(
    run: RunDir,
    token: str,
    annotator: str = OWNER,
    hosts: Hosts | None = None,
    pace: Pace | None = None,
    guesses: Guesses | None = None,
) -> FastAPI:
    """The app for one run; `app.state.context.store` is open until its owner closes it.

    Args:
        token: the run's own; whoever has it may do everything.
        annotator: under which name the answers of whoever has it are stored.
        hosts: names under which it may be called; those of this machine's loopback if not given.
        pace: how many answers it takes of one annotator.
        guesses: how many wrong tokens it takes from one address.

    Raises:
        RunError: the run's settings or its store cannot be used.
    """
    try:
        settings = m.Settings.model_validate(run.settings)
        config = TypeAdapter(PeopleConfig).validate_python(run.settings.get("people", {}))
    except ValidationError as error:
        raise RunError(f"the settings in {run.path / 'run.json'} are damaged ({error}); restore a copy") from error
    files = {path.relative_to(STATIC).as_posix(): path for path in sorted(STATIC.rglob("*")) if path.suffix in MIME}
    parts = (pages, clips, labelling, watching, people, run_api, fours)
    routes = guarded(route for part in parts for route in part.routes)
    app = FastAPI(routes=routes, docs_url=None, redoc_url=None, openapi_url=None)
    store = run.store()
    app.state.context = Context(run, store, settings, config, fingerprint(token), files)
    keys = Keys(token, annotator, store)
    app.add_middleware(Gate, keys=keys, hosts=hosts or Hosts(), pace=pace or Pace(), guesses=guesses or Guesses())
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(NotAllowed, _not_allowed)
    app.add_exception_handler(StoreError, _store_refused)
    app.add_exception_handler(Exception, _broke)
    return app


# ---- pages


@pages.get("/", dependencies=ANYONE)
def home(here: Here, visitor: Visitor) -> Response:
    """To the page of a visitor's role; who may do everything, to that which this run's teacher needs."""
    labels = visitor.role == "label" or (visitor.role == "admin" and here.settings.teacher == "people")
    return RedirectResponse("/label" if labels else "/run", 303)


@pages.get("/label", dependencies=[needs("label")])
def label_page(here: Here) -> Response:
    """Where people choose between clips; where they pick the best of four texts, to that page."""
    return RedirectResponse("/pick", 303) if here.people.best_of > 2 else _file(here, "label.html")


@pages.get("/pick", dependencies=[needs("label")])
def pick_page(here: Here) -> Response:
    """Where people pick the best of four texts; where they choose between two, to that page."""
    return _file(here, "pick.html") if here.people.best_of > 2 else RedirectResponse("/label", 303)


@pages.get("/run", dependencies=[needs("view")])
def run_page(here: Here) -> Response:
    """Where people watch the run."""
    return _file(here, "run.html")


@pages.get("/favicon.ico", dependencies=ANYONE)
def icon(here: Here) -> Response:
    """What browsers ask for unasked."""
    return _file(here, "icon.svg")


@pages.get("/static/{name:path}", dependencies=ANYONE)
def static_file(here: Here, name: str) -> Response:
    """A file of the pages."""
    return _file(here, name)


def _file(here: Context, name: str) -> Response:
    path = here.files.get(name)
    if path is None:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(path, media_type=MIME[path.suffix], headers={"cache-control": "no-cache"})


# ---- what the labelling page says and hears


@labelling.get("/next")
def next_pairs(
    here: Here,
    visitor: Visitor,
    count: Annotated[int, InAddress(ge=0, le=10)] = 3,
    have: Annotated[str, InAddress(pattern=r"^(\d{1,18}(,\d{1,18})*)?$", max_length=1000)] = "",
) -> m.Next:
    """Up to `count` pairs that the page does not hold yet; those it does hold stay lent to it for longer."""
    held = {int(number) for number in have.split(",") if number}
    accounts = here.store.accounts()
    with here.store.reading() as c:
        texts = browsing.are_texts(c)
    checks = here.people.checks(are_several(accounts))
    pairs, passed_over = _claim(here, visitor.annotator, count, held, checks)
    read = here.store.instructed()
    return m.Next(
        run=here.name,
        you=you_of(here.store, visitor),
        settings=m.Task.model_validate(here.run.settings),
        kind="texts" if texts else "films",
        instruction=None if read is None else read.id,
        pairs=pairs,
        counts=counts_of(here.store),
        now=outside(here.run),
        undrawn=0 if pairs else len(here.store.undrawn(1000)),
        passed_over=passed_over,
    )


@labelling.get("/practice")
def practice(here: Here, visitor: Visitor) -> m.Practice:
    """Pairs whose right answer is known, with an explanation each."""
    lessons = []
    for lesson in here.store.lessons(visitor.annotator, LESSONS):
        try:
            shown = _pair(here.run.clips, lesson.shown)
        except (OSError, ValidationError) as error:
            _log.warning("query %d is no lesson, a clip of it cannot be shown: %s", lesson.shown.query.id, error)
        else:
            lessons.append(m.Lesson(**dict(shown), answer=lesson.right, why=lesson.why))
    return m.Practice(lessons=lessons)


@labelling.post("/answer")
def answer(here: Here, visitor: Visitor, given: m.Answer) -> m.Saved:
    """Store a choice; it is on the disk before this returns."""
    showing = _shown(here.store, given.showing, visitor)
    choice = showing.meant(given.choice)
    preference = Preference(given.uuid, showing.query, choice, visitor.annotator, given.seconds)
    details = given.model_dump(exclude={"uuid", "showing", "choice", "seconds"}, exclude_none=True)
    new = here.store.answer(preference, details, showing)
    return m.Saved(duplicate=not new, counts=counts_of(here.store))


@labelling.post("/skip")
def skip(here: Here, visitor: Visitor, given: m.Skip) -> m.Saved:
    """Leave a query to others."""
    showing = _shown(here.store, given.showing, visitor)
    new = here.store.skip(given.uuid, showing.query, visitor.annotator, showing)
    return m.Saved(duplicate=not new, counts=counts_of(here.store))


@labelling.post("/flag")
def flag(here: Here, visitor: Visitor, given: m.Flag) -> m.Saved:
    """Take a query that cannot be shown out of everybody's way."""
    showing = _shown(here.store, given.showing, visitor)
    new = here.store.flag(given.uuid, showing.query, visitor.annotator, given.reason, showing)
    if new:
        _log.warning("query %d was flagged by %r: %r", showing.query, visitor.annotator, given.reason)
    return m.Saved(duplicate=not new, counts=counts_of(here.store))


@labelling.post("/undo")
def undo(here: Here, visitor: Visitor, given: m.Undo) -> m.Undone:
    """Take back one's own answer, skip or flag."""
    showing = here.store.undo(given.uuid, visitor.annotator, given.undone)
    return m.Undone(showing=showing, counts=counts_of(here.store))


def _claim(here: Context, annotator: str, count: int, held: set[int], checks: Checks) -> tuple[list[m.Pair], int]:
    """Borrow pairs that can be shown.

    What is missing will be drawn again; what is damaged is flagged, or it would always come first; what cannot be read
    stays lent, and others come in its place.
    """
    passed_over = 0
    unreadable: set[int] = set()
    for _ in range(MOST_ROUNDS):
        pairs = []
        claims = here.store.claim(annotator, count, checks=checks, besides=held | unreadable)
        for claim in claims:
            try:
                pairs.append(_pair(here.run.clips, claim))
            except FileNotFoundError as error:
                _log.warning("query %d waits until its clips are drawn again: %s", claim.query.id, error)
                here.store.forget_clips([claim.query.left, claim.query.right])
            except OSError as error:
                _log.error("the clips of query %d cannot be read: %s", claim.query.id, error)
                unreadable.add(claim.showing)
            except ValidationError as error:
                _log.warning("query %d is passed over, a clip of it cannot be shown: %s", claim.query.id, error)
                showing = here.store.shown(claim.showing, annotator)
                here.store.flag(new_uuid(), claim.query.id, annotator, str(error)[:200], showing)
        if len(pairs) == len(claims):
            break
        passed_over += len(claims) - len(pairs)
    if unreadable and not pairs:
        raise HTTPException(503, "The server cannot read its clips just now.", RETRY)
    return pairs, passed_over


def _pair(clips: Path, claim: Claim) -> m.Pair:
    return m.Pair(
        showing=claim.showing, left=described(clips, claim.left_clip), right=described(clips, claim.right_clip)
    )


def _shown(store: Store, number: int, visitor: Session) -> Showing:
    try:
        return store.shown(number, visitor.annotator)
    except StoreError as error:
        if error.__cause__ is not None:  # the database, not the number
            raise
        raise HTTPException(422, f"{error}.") from error


# ---- what the run page hears


@watching.get("/run")
def report(
    here: Here,
    visitor: Visitor,
    since: Annotated[int, InAddress(ge=0, lt=2**63)] = 0,
    mark: Annotated[str, InAddress(max_length=16)] = "",
) -> m.Report:
    """How the run is doing, with the measurements since a position that an earlier report gave, with its mark."""
    cut = since > here.run.metrics_position() or (mark and here.run.metrics_mark(since) != mark)
    reset = since > 0 and bool(cut)
    lines, position = here.run.metrics(since) if since and not reset else here.run.metrics_thinned()
    with here.store.reading() as c:
        texts = browsing.are_texts(c)
    return m.Report(
        run=here.name,
        name=here.run.path.absolute().name,
        path=str(here.run.path) if visitor.role == "admin" else here.run.path.absolute().name,
        settings=here.settings,
        kind="texts" if texts else "films",
        created=here.run.config.get("created", 0.0),
        now=_now(here.run),
        counts=counts_of(here.store),
        series=_series(lines),
        position=position,
        mark=here.run.metrics_mark(position),
        reset=reset,
        you=visitor.annotator,
        role=visitor.role,
        given=[_given(*pair) for pair in reversed(here.store.preferences(newest=NEWEST_GIVEN))],
    )


def _series(lines: list[dict[str, Any]]) -> dict[str, m.Series]:
    """Measurements as columns by name; what is not a finite number becomes a gap."""
    found: dict[str, m.Series] = {}
    for line in lines:
        series = found.setdefault(line["name"], m.Series())
        series.step.append(line["step"])
        series.seconds.append(line["seconds"])
        series.value.append(line["value"] if math.isfinite(line["value"]) else None)
    return found


def _given(preference: Preference, query: Query) -> m.Given:
    return m.Given(
        query=query.id,
        choice=preference.choice,
        teacher=preference.teacher,
        seconds=preference.seconds,
        predicted_left=float(np.mean(query.p_left)) if query.p_left else None,
        policy_steps=query.policy_steps,
    )


def _now(run: RunDir) -> m.Now:
    return m.Now(
        act=m.Act.model_validate(run.told("act")),
        ask=m.Ask.model_validate(run.told("ask")),
        fit=m.Fit.model_validate(run.told("fit")),
        run=m.Whole.model_validate(run.told("run")),
        alarm=m.Alarm.model_validate(run.told("alarm")),
        time=time.time(),
    )


# ---- when it goes wrong


def _not_allowed(_request: Request, error: Exception) -> Response:
    """403 for a role that does not have this."""
    return PlainTextResponse(f"{error}\n", 403)


def _store_refused(_request: Request, error: Exception) -> Response:
    """409 for what contradicts what is stored; 503 for a store that cannot be used just now: pages try again."""
    if error.__cause__ is None:
        return JSONResponse({"detail": str(error)}, 409)
    _log.error("%s", error)
    return JSONResponse({"detail": str(error)}, 503, headers=RETRY)


def _broke(_request: Request, _error: Exception) -> Response:
    """A defect of ours: the server's log has the traceback, the visitor a sentence."""
    response = PlainTextResponse("The server made a mistake; its terminal says more. Your answers are kept.\n", 500)
    protect(MutableHeaders(raw=response.raw_headers))
    return response
