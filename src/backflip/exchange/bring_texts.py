"""Pairs of texts into a store: packed, with the features that r̂ reads, and what was said about them."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from jaxtyping import Float32

from backflip import browsing
from backflip.exchange.bring import Here, Imported, bring_checked
from backflip.exchange.bundle import Bundle, ExchangeError, in_chunks, names_of
from backflip.exchange.text_files import Decode, Judged, dialogue, read_texts
from backflip.packing import Layout
from backflip.preferences import Choice
from backflip.records import Brought, Record, may_be_one
from backflip.schema import ANSWERED, CHOICES, LABEL, event, query
from backflip.segments import Array, Segments
from backflip.store import Store
from backflip.stored_segments import layout_of
from backflip.texts import Text, are_texts, pack_texts, unpack_text

Statement = tuple[str, str, bool]
"""The better text and the worse one, whole; or two that are about the same."""
Said = dict[Statement, set[str]]
"""What was ever answered about two texts, in the forms in which it may come back, and by whom."""
Features = Callable[[list[Text]], Float32[np.ndarray, "n k d"]]
"""What r̂ reads of each text, k steps of it; rows of zeros at the end are padding."""

ROOM = 8192
"""Bytes for a text in a store that has none yet."""
TEXTS_AT_ONCE = 64
UNDATED = 0.0
"""When an answer out of a file of texts was given: such files do not say."""
NAMESPACE = uuid.UUID("2f8d7a55-6a1f-4f0e-9b0e-6f4f1c1b7f3a")


@dataclass(frozen=True)
class Prepared:
    """A file of texts, read, with the features of all of them: nothing is left to do but to write it."""

    bundle: Bundle
    layout: Layout | None
    """Of its segments; None where there are none."""
    passed_over: list[str]
    """What cannot be a pair, with the places."""
    known: int
    """How many of its answers are in the store already."""


def prepared(
    store: Store,
    path: Path,
    features: Features,
    decode: Decode | None = None,
    room: int = ROOM,
    said: Said | None = None,
) -> Prepared:
    """Read what a file says about pairs of texts; a language model that reads them may take minutes.

    Args:
        decode: makes a text of tokens, where a file has these.
        room: bytes for a text, where the store has no texts yet; else it is as there.
        said: what was answered, where it was read before; what this file says is added to it.

    Raises:
        ExchangeError: nothing in the file can be read, or its texts do not fit those of the store.
    """
    with store.reading() as c:
        here = layout_of(c)
    found = read_texts(path, decode)
    said = answered(store) if said is None else said
    judged = [one for one in found.judged if not _is_known(one, said)]
    for one in judged:
        _add(said, one.left, one.right, one.choice, one.teacher)
    texts = list(dict.fromkeys(text for one in judged for text in (one.left, one.right)))
    parts = list(_segments(str(path), texts, features, here, room))
    named = [name for part in parts for name in names_of(part)]
    events, same = _events(judged, dict(zip(texts, named, strict=True)))
    layout = here or (Layout.of(parts[0]) if parts else None)
    return Prepared(Bundle(str(path), parts, events), layout, found.passed_over + same, len(found.judged) - len(judged))


def bring_texts(store: Store, texts: Prepared, here: Here | None = None) -> Imported:
    """Add what a file says about pairs of texts, but for what is there already; say what in it cannot be read.

    Args:
        here: what is there, where it was read before.
    """
    if texts.layout is None:
        return Imported([], Brought(0, 0, texts.known), texts.passed_over)
    new = bring_checked(store, texts.bundle, here or Here(store, texts.layout))
    known = texts.known + new.brought.known
    return replace(new, brought=replace(new.brought, known=known), passed_over=texts.passed_over)


def answered(store: Store) -> Said:
    """What was ever answered here about two texts."""
    choices = event.c.kind.in_({*CHOICES} - {Choice.INCOMPARABLE.value}) & (event.c.purpose == LABEL)
    statement = sa.select(event.c.kind, event.c.teacher, query.c.left, query.c.right)
    with store.reading() as c:
        layout = layout_of(c) if browsing.are_texts(c) else None
        rows = c.execute(statement.join(query, query.c.id == event.c.query).where(choices)).all()
    if layout is None:
        return {}
    texts: dict[int, Text] = {}
    for segments in in_chunks(store, sorted({side for row in rows for side in (row.left, row.right)}), layout):
        texts |= zip(segments.ids.tolist(), map(unpack_text, segments.states), strict=True)
    said: Said = {}
    for row in rows:
        _add(said, texts[row.left], texts[row.right], Choice(row.kind), row.teacher)
    return said


def _add(said: Said, left: Text, right: Text, choice: Choice, teacher: str) -> None:
    for statement in _statements(left, right, choice):
        said.setdefault(statement, set()).add(teacher)


def _is_known(one: Judged, said: Said) -> bool:
    found = (said.get(statement, set()) for statement in _statements(one.left, one.right, one.choice))
    return any(may_be_one(teacher, one.teacher) for teacher in set().union(*found))


def _whole(text: Text) -> str:
    return text.prompt + text.completion


def _statements(left: Text, right: Text, choice: Choice) -> Iterator[Statement]:
    """What is said, in either form, on whichever side each text was: dialogues have no sides."""
    for form in (_whole, dialogue):
        one, other = form(left), form(right)
        if choice is Choice.EQUAL:
            one, other = sorted((one, other))
        elif choice is Choice.RIGHT:
            one, other = other, one
        yield one, other, choice is Choice.EQUAL


def _segments(source: str, texts: list[Text], features: Features, here: Layout | None, room: int) -> Iterator[Segments]:
    """The texts as segments, some at a time."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[start : start + TEXTS_AT_ONCE]
        seen = np.asarray(features(some), np.float32)
        if seen.ndim != 3 or len(seen) != len(some) or not np.isfinite(seen).all():
            raise ExchangeError(f"{source}: the features have the shape {seen.shape}, or are not all finite numbers")
        columns = {} if here is None else {name: (dtype, shape) for name, dtype, shape in here.columns}
        steps = seen.shape[1]
        if here is not None:
            if not are_texts(np.zeros((1, *columns["states"][1]), columns["states"][0])):
                raise ExchangeError(f"{source} holds texts, and the run's segments are clips; name a run of texts")
            room = int(np.prod(columns["states"][1]))
            if columns["observations"][1] != seen.shape[1:]:
                raise ExchangeError(
                    f"{source}: a text has features of the shape {seen.shape[1:]}, and those of the run have "
                    f"{columns['observations'][1]}; use the model that the run began with"
                )
        dtype, shape = columns.get("actions", ("<f4", (steps, 0)))
        yield Segments(
            ids=np.full(len(some), -1, np.int64),
            observations=seen,
            actions=np.zeros((len(some), *shape), dtype),
            true_rewards=np.full((len(some), steps), np.nan, np.float32),
            states=pack_texts(some, steps, room),
            policy_steps=np.zeros(len(some), np.int64),
            lengths=_lengths(seen),
        )


def _lengths(seen: Array) -> Array:
    """Steps up to the last one that is not all zeros, at least one."""
    filled = (seen != 0).any(2)
    lengths: Array = np.where(filled.any(1), seen.shape[1] - filled[:, ::-1].argmax(1), 1).astype(np.int64)
    return lengths


def _events(judged: list[Judged], names: dict[Text, str]) -> tuple[list[tuple[str, Record]], list[str]]:
    """An event for each pair, under a UUID made of what it says, so that twice is once; and what cannot be a pair."""
    numbers: dict[tuple[str, str], int] = {}
    events: list[tuple[str, Record]] = []
    same: list[str] = []
    for one in judged:
        left, right = names[one.left], names[one.right]
        if left == right:
            same.append(f"{one.where}: its texts differ only in what there is no room for")
            continue
        number = numbers.setdefault((left, right), len(numbers) + 1)
        name = uuid.uuid5(NAMESPACE, f"{one.teacher.encode()!r} {left} {right} {one.choice.value}")
        asked = {"id": number, "left": left, "right": right, "status": ANSWERED}
        event = {"uuid": str(name), "kind": one.choice.value, "teacher": one.teacher, "received_at": UNDATED}
        events.append((one.where, {**event, "query": asked}))
    return events, same
