"""Four completions of one prompt on the page, of which the best is picked. Ziegler 2019, §2.1"""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi import Query as InAddress
from pydantic import BaseModel, Field

from backflip.picks import SHOWN, among, answers_of, pick
from backflip.store import new_uuid
from backflip.texts import Text, save_text, unpack_text
from backflip.web import messages as m
from backflip.web.context import Context, Here, Visitor, counts_of, outside, you_of
from backflip.web.roles import needs

LOOKED_AT = 512
"""Newest completions among which four are looked for."""
fours = APIRouter(prefix="/api", dependencies=[needs("label")])


class Passage(BaseModel):
    """One of the four."""

    segment: int
    completion: str


class Four(BaseModel):
    """Four completions of a prompt, or none for now; and what is asked of them."""

    run: str
    """The run's public short name, under which browsers keep things for it."""
    you: m.You
    settings: m.Task
    prompt: str
    passages: list[Passage]
    counts: m.Counts
    now: m.Outside


class Picked(m.Sent):
    """The best of four, and how long it took to find."""

    uuid: m.Uuid
    segments: Annotated[list[int], Field(min_length=SHOWN, max_length=SHOWN)]
    best: int
    seconds: m.Measured = None


class Unpicked(m.Sent):
    """A pick that is taken back."""

    uuid: m.Uuid
    segments: Annotated[list[int], Field(min_length=SHOWN, max_length=SHOWN)]
    best: int


@fours.get("/four")
def next_four(
    here: Here,
    visitor: Visitor,
    count: Annotated[int, InAddress(ge=0, le=1)] = 1,
    coming: Annotated[int, InAddress(ge=0, le=10_000)] = 0,
    besides: Annotated[str, InAddress(pattern=r"^(\d{1,18}(,\d{1,18})*)?$", max_length=4000)] = "",
) -> Four:
    """Four of one prompt, newest first, of which nobody has judged any; none that hold a segment of `besides`.

    None beyond what is wanted of the annotator, or of all; `coming` answers are on their way, or their four in sight.
    With a count of 0 it is only the news that are wanted.
    """
    _must_be_picked(here)
    left_out = {int(number) for number in besides.split(",") if number}
    you, counts, settings = you_of(here.store, visitor), counts_of(here.store), m.Task.model_validate(here.run.settings)
    wanted = (you.given, you.quota), (counts.labels - counts.incomparable, settings.labels)
    found = []
    if count and all(most is None or given + coming < most for given, most in wanted):
        with here.store.reading() as c:
            found = [four for four in among(c, LOOKED_AT) if left_out.isdisjoint(four)]
    now = here.store.clock()
    chosen = next((four for four in found if here.lent.lend(frozenset(four), visitor.annotator, now)), None)
    texts = [] if chosen is None else _texts(here, chosen)
    return Four(
        run=here.name,
        you=you,
        settings=settings,
        prompt=max((text.prompt for text in texts), key=len, default=""),
        passages=[
            Passage(segment=one, completion=text.completion) for one, text in zip(chosen or [], texts, strict=True)
        ],
        counts=counts,
        now=outside(here.run),
    )


def _must_be_picked(here: Context) -> None:
    """Where people choose between two there are no fours; what is shown there need not be texts."""
    if here.people.best_of != SHOWN:
        raise HTTPException(404, "In this run people choose between two; open /label.")


def _texts(here: Context, four: list[int]) -> list[Text]:
    return [unpack_text(one) for one in here.store.segments(four, states=True).states]


@fours.post("/pick")
def picked(here: Here, visitor: Visitor, given: Picked) -> m.Saved:
    """Store a pick as three answers; they are on the disk before this returns."""
    _must_be_picked(here)
    with here.store.transaction() as c:
        new = pick(c, here.store.clock(), given.uuid, given.segments, given.best, visitor.annotator, given.seconds)
    for one, text in zip(given.segments, _texts(here, given.segments), strict=True):
        here.store.set_clip(one, save_text(here.run.clips, text))  # for the run page
    return m.Saved(duplicate=not new, counts=counts_of(here.store))


@fours.post("/unpick")
def unpicked(here: Here, visitor: Visitor, given: Unpicked) -> m.Saved:
    """Take one's own pick back: all three answers."""
    _must_be_picked(here)
    with here.store.transaction():
        for name in answers_of(given.uuid, given.segments, given.best).values():
            here.store.undo(new_uuid(), visitor.annotator, name)
    return m.Saved(duplicate=False, counts=counts_of(here.store))
