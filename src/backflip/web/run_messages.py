"""What the run page hears about clips, pairs, annotators and r̂'s agreement; None is not measured."""

from pydantic import BaseModel, ConfigDict

from backflip.preferences import Choice
from backflip.store import Role
from backflip.web.messages import Clip


class Page(BaseModel):
    """Part of a list: which part, of how much."""

    page: int
    pages: int
    total: int


class ShownClip(BaseModel):
    """A drawn segment, and what r̂ gives for it."""

    segment: int
    clip: Clip | None
    """None where its drawing cannot be read."""
    policy_steps: int
    length: int
    """Steps of the segment."""
    reward: float | None
    """The sum of r̂ over its steps."""
    disagreement: float | None
    """The standard deviation over members of that sum."""
    flagged: str | None
    """The reason that was given where a query with it was flagged; may be empty."""


class ClipPage(Page):
    """Clips in some order."""

    clips: list[ShownClip]
    version: int | None
    """The number of the r̂ that gave the rewards; None where none did yet."""
    steps: tuple[int, int] | None
    """Of the policy, when the first and the last of all drawn segments were made; None where there are none."""


class Judged(BaseModel):
    """An answer to a query in which a segment was."""

    query: int
    side: str
    """On which side of the query it was."""
    other: int
    """The other segment."""
    choice: Choice
    teacher: str


class ClipDetail(ShownClip):
    """A clip with all that is known of it."""

    members: list[list[float]]
    """Every member's reward for every step; empty where r̂ has not been asked."""
    answers: list[Judged]


class Answered(BaseModel):
    """An answer that stands and counts, its pair, and what r̂ had predicted before it was given."""

    uuid: str
    query: int
    left: Clip | None
    right: Clip | None
    left_segment: int
    right_segment: int
    choice: Choice
    teacher: str
    seconds: float | None
    at: float | None
    """Seconds since the epoch; None where that is not known, and where a run takes turns."""
    predicted_left: float | None
    """The mean over members of P̂(left)."""
    surprise: float | None
    """Cross-entropy of the answer in nats."""
    policy_steps: int
    gold: Choice | None
    gold_why: str


class AnsweredPage(Page):
    """Answers in some order."""

    pairs: list[Answered]
    newest: int
    """The number of the newest event."""


class Copy(BaseModel):
    """Something that the page hears as it is."""

    model_config = ConfigDict(from_attributes=True)


class Part(Copy):
    """A share of few things, with its 95 % interval."""

    value: float
    low: float
    high: float
    of: int


class Rate(Copy):
    """An annotator's probability of answering at random, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    of: int


class Account(Copy):
    """Somebody who was invited."""

    role: Role
    quota: int | None
    invited_at: float
    revoked_at: float | None


class Summary(Copy):
    """How somebody answered; see `annotators.Summary`."""

    answers: int
    left: float
    equal: float
    right: float
    incomparable: float
    seconds: float | None
    side_bias: Part | None
    consistency: Part | None
    overlap: Part | None
    gold: Part | None
    reward: Part | None
    error_rate: Rate | None
    last_seen: float | None
    """When the newest answer came, or at which step of the policy; None where that is not known."""


class Person(BaseModel):
    """Somebody who was invited or answered."""

    name: str
    account: Account | None
    summary: Summary | None


class Instruction(Copy):
    """What annotators read now."""

    id: int
    text: str
    since: float


class Annotators(BaseModel):
    """Everybody who was invited or answered."""

    annotators: list[Person]
    in_turn: bool
    """Whether `last_seen` is a step of the policy, and no date."""
    alpha: float | None
    """Krippendorff's, over all of them."""
    estimating: bool
    """Whether the error rates from the newest answers are still to come; ask again."""
    instruction: Instruction | None
    assumed: float
    """The error rate in the likelihood where no annotator has one of their own."""
    newest: int


class Row(Copy):
    """Predictions that were about equally sure, and how often they came true."""

    low: float
    high: float
    predicted: float
    share: Part


class Reliability(BaseModel):
    """How often what r̂ predicted when it asked came true."""

    rows: list[Row]
    of: int
    """Answers that chose a side and had a prediction."""
    newest: int


class Bar(BaseModel):
    """How many there are from here to the next bar."""

    start: float
    count: int


class Labels(BaseModel):
    """When answers came, how long they took, and what else was said."""

    seconds: list[Bar]
    """By how long they took; the last bar holds all that took longer."""
    median_seconds: float | None
    pace: list[Bar]
    """By when they came, in seconds since the epoch; where a run takes turns, in steps of its policy."""
    pace_seconds: float
    """Width of the bars of `pace`."""
    last_hour: int | None
    """None where a run takes turns."""
    in_turn: bool
    purposes: dict[str, int]
    """Answers that stand by why they were asked for."""
    kinds: dict[str, int]
    """All that was ever logged, by kind."""
    newest: int
