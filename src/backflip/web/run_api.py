"""What the run page asks for beside the report: clips, pairs, annotators, r̂'s reliability, and downloads."""

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, HTTPException
from fastapi import Path as InPath
from fastapi import Query as InAddress
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from backflip import browsing, records
from backflip.annotators import alpha
from backflip.browsing import Drawn, Given
from backflip.clip_rewards import ClipRewards
from backflip.files import DamagedFile
from backflip.preferences import ERROR_RATE
from backflip.records import Record
from backflip.schema import LABEL, LARGEST_NUMBER, PRACTICE
from backflip.web import messages as m
from backflip.web import run_messages as r
from backflip.web import tables
from backflip.web.context import Context, Here, described
from backflip.web.roles import needs

CLIPS_ON_PAGE = 24
PAIRS_ON_PAGE = 12
EVENTS_AT_ONCE = 500
"""Events that a download reads at a time."""
PART_BYTES = 2**16
"""A download is sent in parts of about so many."""

Item = TypeVar("Item")
ClipOrder = Literal["highest", "lowest", "disagreed", "newest", "flagged"]
PairOrder = Literal["surprise", "newest"]
PageNumber = Annotated[int, InAddress(ge=1, le=100_000)]
Since = Annotated[int, InAddress(ge=-1, le=LARGEST_NUMBER)]
"""The number of the newest event that the page knows of; it hears nothing as long as that is the newest."""

run_api = APIRouter(prefix="/api", dependencies=[needs("view")])


# ---- clips


@run_api.get("/clips")
def clips(
    here: Here,
    sort: ClipOrder = "highest",
    begin: Annotated[int, InAddress(alias="from", ge=0, le=LARGEST_NUMBER)] = 0,
    end: Annotated[int, InAddress(alias="to", ge=0, le=LARGEST_NUMBER)] = LARGEST_NUMBER,
    page: PageNumber = 1,
) -> r.ClipPage:
    """Drawn segments that the policy made between two of its steps, in some order."""
    with here.store.reading() as c:
        found, flagged = browsing.drawn(c), browsing.flagged(c)
    rewards = _rewards(here)
    worth = {} if rewards is None else dict(zip(rewards.ids.tolist(), _worth(rewards), strict=True))
    chosen = [clip for clip in found if begin <= clip.policy_steps <= end]
    if sort == "flagged":
        chosen = [clip for clip in chosen if clip.id in flagged]
    elif sort != "newest":
        column, sign = {"highest": (0, -1), "lowest": (0, 1), "disagreed": (1, -1)}[sort]
        known = [clip for clip in chosen if clip.id in worth]
        chosen = sorted(known, key=lambda clip: sign * worth[clip.id][column])
    shown, pages = _part(chosen, page, CLIPS_ON_PAGE)
    steps = [clip.policy_steps for clip in found]
    return r.ClipPage(
        clips=[_shown(here, clip, worth, flagged) for clip in shown],
        page=page,
        pages=pages,
        total=len(chosen),
        version=None if rewards is None else rewards.version,
        steps=(min(steps), max(steps)) if steps else None,
    )


@run_api.get("/clips/{segment}")
def clip(here: Here, segment: Annotated[int, InPath(ge=0, le=LARGEST_NUMBER)]) -> r.ClipDetail:
    """A drawn segment with every member's reward for every step, and what was said about it."""
    with here.store.reading() as c:
        found = next((clip for clip in browsing.drawn(c) if clip.id == segment), None)
        flagged = browsing.flagged(c)
        given = browsing.given(c)
    if found is None:
        raise HTTPException(404, "There is no such clip.")
    rewards = _rewards(here)
    worth, members = {}, []
    if rewards is not None and segment in rewards.ids:
        place = int(np.flatnonzero(rewards.ids == segment)[0])
        worth = {segment: _worth(rewards)[place]}
        members = rewards.rewards[:, place, : found.length].tolist()
    return r.ClipDetail(
        **_shown(here, found, worth, flagged).model_dump(),
        members=members,
        answers=[_judged(answer, segment) for answer in reversed(given) if segment in _sides(answer)],
    )


def _rewards(here: Context) -> ClipRewards | None:
    try:
        return ClipRewards.load(here.run.clip_rewards)
    except DamagedFile:
        return None  # there is no r̂ yet; or an older version's, of which the next r̂ makes a new one


def _worth(rewards: ClipRewards) -> list[tuple[float, float]]:
    """r̂ and disagreement of each segment."""
    return list(zip(rewards.returns.tolist(), rewards.disagreement.tolist(), strict=True))


def _shown(here: Context, clip: Drawn, worth: dict[int, tuple[float, float]], flagged: dict[int, str]) -> r.ShownClip:
    reward, disagreement = worth.get(clip.id, (None, None))
    return r.ShownClip(
        segment=clip.id,
        clip=_drawing(here, clip.clip),
        policy_steps=clip.policy_steps,
        length=clip.length,
        reward=reward,
        disagreement=disagreement,
        flagged=flagged.get(clip.id),
    )


def _drawing(here: Context, clip: str | None) -> m.Clip | None:
    if clip is None:
        return None
    try:
        return described(here.run.clips, clip)
    except (OSError, ValidationError):
        return None  # the page says that it is missing


def _sides(given: Given) -> tuple[int, int]:
    return given.query.left, given.query.right


def _judged(given: Given, segment: int) -> r.Judged:
    left, right = _sides(given)
    return r.Judged(
        query=given.query.id,
        side="left" if segment == left else "right",
        other=right if segment == left else left,
        choice=given.choice,
        teacher=given.teacher,
    )


# ---- pairs


@run_api.get("/pairs")
def pairs(
    here: Here,
    order: PairOrder = "surprise",
    annotator: Annotated[str, InAddress(max_length=200)] = "",
    page: PageNumber = 1,
) -> r.AnsweredPage:
    """Answers that count, those that r̂ expected least first, or the newest; of one annotator if one is named."""
    with here.store.reading() as c:
        newest = browsing.newest_event(c)
        given = [g for g in reversed(browsing.given(c)) if g.purpose == LABEL and annotator in ("", g.teacher)]
        surprises = {g.seq: outcome.surprise for g in given if (outcome := tables.as_outcome(g))}
        if order == "surprise":
            given = sorted((g for g in given if g.seq in surprises), key=lambda g: -surprises[g.seq])
        shown, pages = _part(given, page, PAIRS_ON_PAGE)
        drawn = browsing.clips(c, [side for g in shown for side in _sides(g)])
    return r.AnsweredPage(
        pairs=[_answered(here, g, drawn, surprises.get(g.seq)) for g in shown],
        page=page,
        pages=pages,
        total=len(given),
        newest=newest,
    )


def _answered(here: Context, given: Given, drawn: dict[int, str], surprise: float | None) -> r.Answered:
    query = given.query
    return r.Answered(
        uuid=given.uuid,
        query=query.id,
        left=_drawing(here, drawn.get(query.left)),
        right=_drawing(here, drawn.get(query.right)),
        left_segment=query.left,
        right_segment=query.right,
        choice=given.choice,
        teacher=given.teacher,
        seconds=given.seconds,
        at=None if _in_turn(here) else tables.moment(given.at, in_turn=False),
        predicted_left=float(np.mean(query.p_left)) if query.p_left else None,
        surprise=surprise,
        policy_steps=query.policy_steps,
        gold=given.gold,
        gold_why=given.gold_why,
    )


def _part(items: list[Item], page: int, size: int) -> tuple[list[Item], int]:
    """One page of a list, and how many pages it has."""
    return items[(page - 1) * size : page * size], max(1, math.ceil(len(items) / size))


# ---- tables


@run_api.get("/annotators")
def annotators(here: Here, since: Since = -1) -> r.Annotators | None:
    """Who was invited and who answered, how, and how reliably; null where nothing is new."""
    with here.store.reading() as c:
        newest = browsing.newest_event(c)
        if newest == since:
            return None
        answers = [tables.as_answer(g) for g in browsing.given(c) if g.purpose != PRACTICE]
    told = here.store.instructed()
    assumed = _error_rate(here)
    rates, estimating = here.estimates.rates(answers, newest, assumed)
    return r.Annotators(
        annotators=tables.people(here.store.accounts(), answers, rates, _in_turn(here)),
        in_turn=_in_turn(here),
        alpha=alpha(answers),
        estimating=estimating,
        instruction=None if told is None else r.Instruction.model_validate(told),
        assumed=assumed,
        newest=newest,
    )


def _in_turn(here: Context) -> bool:
    """Whether the run takes turns: its store counts steps of the policy, so that one seed gives the same run again."""
    return here.settings.mode == "in_turn"


def _error_rate(here: Context) -> float:
    """What r̂ is fitted and predicts with."""
    rate = here.run.settings.get("fit", {}).get("error_rate")
    return float(rate) if isinstance(rate, int | float) else ERROR_RATE


@run_api.get("/reliability")
def reliability(here: Here, since: Since = -1) -> r.Reliability | None:
    """How often what r̂ predicted when it asked came true; null where nothing is new."""
    with here.store.reading() as c:
        newest = browsing.newest_event(c)
        return None if newest == since else tables.reliable(browsing.given(c), newest)


@run_api.get("/labels")
def labels(here: Here, since: Since = -1) -> r.Labels | None:
    """When answers came and how long they took; null where nothing is new."""
    with here.store.reading() as c:
        newest = browsing.newest_event(c)
        if newest == since:
            return None
        return tables.labels(browsing.given(c), browsing.kinds(c), here.store.clock(), newest, _in_turn(here))


# ---- downloads


@run_api.get("/events.jsonl")
def events_file(here: Here, names: bool = True) -> StreamingResponse:
    """Everything that was ever answered, undone, left or flagged, oldest first, one event a line."""
    with here.store.reading() as c:
        newest = browsing.newest_event(c)
        called = {} if names else records.called(c)
    return _download(here, "events", _events(here, newest), called)


@run_api.get("/preferences.jsonl")
def preferences_file(here: Here, names: bool = True) -> StreamingResponse:
    """The answers that stand and count, oldest first, each with µ and what r̂ had predicted, one a line."""
    with here.store.reading() as c:
        given = [g for g in browsing.given(c) if g.purpose == LABEL]
        called = {} if names else records.called(c)
    return _download(here, "preferences", (_preference(g) for g in given), called)


def _events(here: Context, newest: int) -> Iterator[Record]:
    after = 0
    while after < newest:
        with here.store.reading() as c:
            part = records.numbered(c, after, EVENTS_AT_ONCE)
        after = part[-1][0]
        yield from (record for number, record in part if number <= newest)


def _preference(given: Given) -> dict[str, Any]:
    return {
        "uuid": given.uuid,
        "query": given.query.id,
        "left": given.query.left,
        "right": given.query.right,
        "choice": given.choice.value,
        "mu": given.choice.mu,
        "teacher": given.teacher,
        "seconds": given.seconds,
        "received_at": given.at,
        "p_left": list(given.query.p_left),
        "policy_steps": given.query.policy_steps,
    }


def _download(here: Context, what: str, told: Iterator[Record], called: dict[str, str]) -> StreamingResponse:
    disposition = f'attachment; filename="{here.name}-{what}.jsonl"'
    lines = (json.dumps(records.nameless(record, called), ensure_ascii=False) + "\n" for record in told)
    return StreamingResponse(
        in_parts(lines), media_type="application/jsonl", headers={"content-disposition": disposition}
    )


def in_parts(lines: Iterator[str]) -> Iterator[bytes]:
    """The lines, many at a time: the server hops to a thread for each part."""
    part = bytearray()
    for line in lines:
        part += line.encode()
        if len(part) >= PART_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part)
