"""What the page and the server say to each other; everything that comes in is checked here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter

from backflip.preferences import Choice
from backflip.store import Role

Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
ShowingNumber = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
MOST_LETTERS = 1_000_000
"""Of a text that is shown; a page with more would hardly open."""
MOST = 1e6
"""Seconds, rounds or milliseconds; no measurement of a page is larger."""


def _measured(value: Any) -> Any:
    """None for a number that nothing measures: a clock that jumped is no reason to refuse an answer."""
    return None if isinstance(value, int | float) and not 0 <= value <= MOST else value


Measured = Annotated[Annotated[FiniteFloat, Field(ge=0, le=MOST)] | None, BeforeValidator(_measured)]
"""How something went, as far as the page could tell; a measurement that failed is None, and no judgement of anybody."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of something's content, which is its name."""
Pixels = Annotated[int, Field(ge=1, le=4096)]


class Sent(BaseModel):
    """Something a page sends: nothing in it that we do not know."""

    model_config = ConfigDict(extra="forbid")


class _Told(BaseModel):
    """Something another part of the run wrote; it may say more, or less, than we know."""

    model_config = ConfigDict(extra="ignore")


class Answer(Sent):
    """A choice between the two clips of a showing as they were seen, and how it came about; texts have no speed."""

    uuid: Uuid
    showing: ShowingNumber
    choice: Choice
    seconds: Measured = None
    """From the first frame seen to the answer, while the page was visible and nothing lay over it."""
    loops: Measured = None
    """How often the clips had run by then; below 1, not even once to the end."""
    speed: Measured = None
    """How fast they ran at the end; 1 is as it happened."""
    paused: bool | None = None
    """Whether they stood still at the end."""
    swap_ms: Measured = None
    """From the key that brought the pair to its first frame on the screen."""
    prefetched: bool | None = None
    by: Literal["key", "button", "swipe"] | None = None
    view: Literal["beside", "stacked"] | None = None
    """How the two clips lay; stacked, the left one is above."""


class Skip(Sent):
    """A query that its visitor wants to leave to others."""

    uuid: Uuid
    showing: ShowingNumber


class Flag(Sent):
    """A query that nobody should be shown as it is."""

    uuid: Uuid
    showing: ShowingNumber
    reason: Annotated[str, Field(max_length=200)] = ""
    """What is wrong with it, if somebody or the page itself could say."""


class Undo(Sent):
    """An answer to take back."""

    uuid: Uuid
    undone: Uuid


class Moving(_Told):
    """How long a clip is, how fast it plays and how large it is drawn."""

    frame_width: Pixels
    frame_height: Pixels
    frames: Annotated[int, Field(ge=1, le=10_000)]
    fps: Annotated[FiniteFloat, Field(gt=0, le=1000)]


class Sheet(Moving):
    """How the frames of a clip lie in its sprite sheet: row by row, `columns` in a row."""

    columns: Annotated[int, Field(ge=1, le=10_000)]
    mime: Literal["image/webp", "image/png"]


class Film(Sheet):
    """A sheet and where it is."""

    url: str


class Poses(Moving):
    """Where the parts of a robot are in each frame, to be drawn by the browser."""

    geometry: Hash
    """Of the file that says what the parts are."""
    mime: Literal["application/x-backflip-poses"]


class PosedFilm(Poses):
    """Poses and where they are; `sheet_url` tells a browser that cannot draw them of a sheet."""

    url: str
    geometry_url: str
    sheet_url: str


class Wish(Sent):
    """A clip that the browser cannot draw."""

    clip: Hash


class Drawing(BaseModel):
    """The sheet of a clip of poses; None before it is drawn, which takes a wish and a moment."""

    sheet: Film | None


class Text(_Told):
    """A clip that is read: what a language model wrote, and what it was given to go on from. All of it is here."""

    prompt: Annotated[str, Field(max_length=MOST_LETTERS)]
    completion: Annotated[str, Field(max_length=MOST_LETTERS)]
    mime: Literal["text/plain"]


Clip = Annotated[Film | PosedFilm | Text, Field(discriminator="mime")]
DESCRIPTION = TypeAdapter[Sheet | Poses | Text](Annotated[Sheet | Poses | Text, Field(discriminator="mime")])
"""What the file says that lies with a clip's drawing, or is the whole of a text."""


class Pair(BaseModel):
    """A query as it is shown, under a number that says neither which it is nor why it is shown."""

    showing: int
    left: Clip
    right: Clip


class Lesson(Pair):
    """A pair to practise on."""

    answer: Choice
    """Which is right, of the sides as they are shown."""
    why: str


class Practice(BaseModel):
    """What there is to practise on; none where nobody has explained any answers."""

    lessons: list[Lesson]


class Counts(BaseModel):
    """How many queries and answers there are."""

    asked: int
    open: int
    labels: int
    left: int
    equal: int
    right: int
    incomparable: int


class Act(_Told):
    """What the policy is doing."""

    state: str | None = None
    steps: float | None = None
    total_steps: float | None = None
    steps_per_second: float | None = None
    reward_version: float | None = None
    time: float | None = None


class Ask(_Told):
    """What is asked."""

    state: str | None = None
    open: float | None = None
    asked: float | None = None
    due: float | None = None
    time: float | None = None


class Fit(_Told):
    """What r̂ is at."""

    state: str | None = None
    version: float | None = None
    comparisons: float | None = None
    time: float | None = None


class Whole(_Told):
    """The run as a whole."""

    state: str | None = None
    message: str | None = None
    time: float | None = None


class Alarm(_Told):
    """Whether the policy seems to earn r̂ for what people do not like, and why one thinks so."""

    on: bool = False
    sentence: str | None = None
    advice: str | None = None
    time: float | None = None


class Now(BaseModel):
    """What every part of the run said last, and the server's clock to tell how long ago that was."""

    act: Act
    ask: Ask
    fit: Fit
    run: Whole
    alarm: Alarm
    time: float


class Settings(_Told):
    """What the run was started with, as far as the pages show it."""

    task: str = ""
    question: str = ""
    teacher: str = "people"
    mode: str | None = None
    seed: int | None = None
    labels: float | None = None
    steps: float | None = None


class Task(_Told):
    """What annotators know of the settings: what is asked, not how far the policy or r̂ are."""

    task: str = ""
    question: str = ""
    labels: float | None = None


class Acting(_Told):
    """What annotators know of the policy."""

    state: str | None = None
    time: float | None = None


class Due(_Told):
    """What annotators know of the schedule."""

    due: float | None = None


class Learned(_Told):
    """What annotators know of r̂: that it learns from them, and not what."""

    state: str | None = None
    comparisons: float | None = None
    time: float | None = None


class Outside(BaseModel):
    """Whether the run goes on, and the server's clock; nothing that could tell an annotator what is hoped for."""

    act: Acting
    ask: Due
    fit: Learned
    run: Whole
    time: float


class You(BaseModel):
    """Whom the page talks to."""

    name: str
    role: Role
    given: int
    """Answers of theirs that stand."""
    quota: int | None
    """Answers that are wanted of them; None for as many as they like."""


class Next(BaseModel):
    """Pairs to show, and what a person who answers them wants to know."""

    run: str
    you: You
    settings: Task
    kind: Literal["films", "texts"]
    """What people choose between; films also where nothing is known yet."""
    instruction: int | None
    """The version of what annotators read now; its text is elsewhere."""
    pairs: list[Pair]
    counts: Counts
    now: Outside
    undrawn: int
    """Segments that still have to be drawn; 0 when there are pairs to show."""
    passed_over: int
    """Queries that were left out because a clip of theirs is missing or damaged."""


class Saved(BaseModel):
    """An answer or skip is on the disk."""

    saved: Literal[True] = True
    duplicate: bool
    counts: Counts


class Undone(BaseModel):
    """An undo is on the disk."""

    saved: Literal[True] = True
    showing: int | None
    """Under which number its query is shown again; None if there was nothing left to take back."""
    counts: Counts


class Series(BaseModel):
    """Measurements of one name as columns."""

    step: list[int] = []
    seconds: list[float] = []
    value: list[float | None] = []


class Given(BaseModel):
    """A recent choice, and what r̂ had predicted before it was made."""

    query: int
    choice: Choice
    teacher: str
    seconds: float | None
    predicted_left: float | None
    policy_steps: int


class Report(BaseModel):
    """What the run page shows; `series` holds only what was measured since the position that was asked for."""

    run: str
    name: str
    path: str
    """Where the run directory lies, from where the page is served, for commands; others than admins see its name."""
    settings: Settings
    kind: Literal["films", "texts"]
    created: float
    now: Now
    counts: Counts
    series: dict[str, Series]
    position: int
    mark: str
    reset: bool
    """The measurements were cut back since: forget what was drawn, this is all there is."""
    you: str
    role: Role
    """What whoever looks at the page may do."""
    given: list[Given]
