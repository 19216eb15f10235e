"""The best of several segments as comparisons: it against each of the others. Ziegler 2019, §2.1"""

import uuid as uuids
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from backflip import answers, open_queries, stored_segments
from backflip.answers import Seen
from backflip.database import StoreError
from backflip.preferences import Choice, Preference
from backflip.schema import CHOICES, as_query, event, query
from backflip.texts import are_texts, unpack_text

SHOWN = 4
"""Continuations of one prompt that are shown together."""
_CUT = "\ufffd"


def pick(
    c: sa.Connection, now: float, uuid: str, segments: Sequence[int], best: int, teacher: str, seconds: float | None
) -> bool:
    """Store that one of four segments was picked, as three answers; False if this very pick was stored before.

    Each of the answers can be undone or excluded like any other. They are one judgement and not three that are
    independent: their details name the pick.

    Raises:
        StoreError: not four different stored segments of one prompt with the best among them, or the UUID belongs to
            another pick.
    """
    if len(set(segments)) != SHOWN or len(segments) != SHOWN or best not in segments:
        raise StoreError(f"{best} of {list(segments)} is no pick; it takes {SHOWN} different segments, one the best")
    names = answers_of(uuid, segments, best)
    _of_one_prompt(c, segments)
    open_queries.ask(c, now, np.array([(best, other) for other in names], np.int64), None, 0)
    details = {"pick": uuid, "picked_from": list(segments)}
    new = False
    for other, name in names.items():
        found = c.execute(sa.select(query).where(query.c.low == min(best, other), query.c.high == max(best, other)))
        asked = as_query(found.one())
        choice = Choice.LEFT if asked.left == best else Choice.RIGHT
        new |= answers.answer(c, now, Preference(name, asked.id, choice, teacher, seconds), details, Seen())
    return new


def answers_of(uuid: str, segments: Sequence[int], best: int) -> dict[int, str]:
    """The UUID of the answer about each segment that was not picked, made from that of the pick.

    Raises:
        StoreError: it is no UUID.
    """
    try:
        whole = uuids.UUID(uuid)
    except ValueError as error:
        raise StoreError(f"'{uuid}' is no UUID; give each pick one of its own") from error
    return {other: str(uuids.uuid5(whole, str(other))) for other in segments if other != best}


def among(c: sa.Connection, newest: int) -> list[list[int]]:
    """Fours of one prompt and one moment among the newest texts, newest first, of which nobody has judged any."""
    found = stored_segments.recent(c, newest, states=True)
    if found is None or not are_texts(found.states):
        return []
    answered = sa.exists().where(event.c.query == query.c.id, event.c.kind.in_(CHOICES))
    judged = {number for row in c.execute(sa.select(query.c.low, query.c.high).where(answered)) for number in row}
    fours: dict[tuple[int, str], dict[str, int]] = {}
    for number, moment, states in zip(found.ids.tolist(), found.policy_steps.tolist(), found.states, strict=True):
        text = unpack_text(states)
        fours.setdefault((moment, text.prompt), {}).setdefault(text.completion, number)
    whole = [[*numbers.values()][:SHOWN] for numbers in fours.values() if len(numbers) >= SHOWN]
    return [numbers for numbers in whole[::-1] if judged.isdisjoint(numbers)]


def _of_one_prompt(c: sa.Connection, segments: Sequence[int]) -> None:
    """Where they are texts, see that they go on from the same; the beginning of a prompt may have been cut off."""
    states = stored_segments.by_id(c, segments, states=True).states
    if not are_texts(states):
        return
    prompts = [unpack_text(one).prompt.lstrip(_CUT) for one in states]
    if not all(max(prompts, key=len).endswith(prompt) for prompt in prompts):
        raise StoreError(f"segments {list(segments)} go on from different prompts; pick among those of one")
