"""Segments, queries and answers in SQLite or PostgreSQL, safe from several processes. §2.2

Answers are events that are only ever added: an undo or a change of mind is a further event that supersedes an earlier
one. What counts now is whatever no later event supersedes. An answer is on the disk before `answer` returns.
"""

import time
import uuid as uuids
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from jaxtyping import Float32, Int64

from backflip import accounts, answers, database, open_queries, showings, standing, stored_segments
from backflip.accounts import Account, Instruction, Role
from backflip.answers import Seen
from backflip.database import StoreError
from backflip.preferences import Changes, Choice, Comparisons, Preference, Query
from backflip.schema import LARGEST_NUMBER, OPEN, as_query, chunks, meta, query
from backflip.segments import Segments
from backflip.showings import Checks, Claim, Lesson, Showing
from backflip.standing import Counts
from backflip.transactions import Transactions

LEASE_SECONDS = 120.0
"""How long a query belongs to the page that was shown it, after which somebody else may get it."""
KEEP_SEGMENTS = 4000
"""Segments that were never asked about are kept up to this number, newest first."""


class Store:
    """The one place for segments, queries and preferences; every method is one transaction.

    Threads may share a store; a process opens its own (a connection does not survive a fork).

    Args:
        url: a path to an SQLite file, or an SQLAlchemy URL (`postgresql://user@host/database`).
        clock: seconds since the epoch; a run that must be reproducible passes its own.
        check: read the whole database once to see that it is sound.

    Raises:
        StoreError: not a database of ours, damaged, newer than this program, or not reachable.
    """

    def __init__(self, url: str | Path, clock: Callable[[], float] = time.time, check: bool = False) -> None:
        self.engine = database.connect(url)
        self.clock = clock
        self._transactions = Transactions(self.engine)
        try:
            database.create_or_verify(self.engine, check)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """All that this thread writes inside becomes visible together, or not at all; joins one already begun.

        What was rolled back leaves no trace in SQLite. PostgreSQL never gives the same number twice, so there the
        numbers of segments and queries have gaps afterwards.
        """
        return self._transactions.writing()

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection that sees one moment of the store, for functions of the store's modules that have no method."""
        return self._transactions.reading()

    # ---- notes: small values that belong to the run

    def note(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        row = {"key": database.storable(key), "value": database.storable(value)}
        with self.transaction() as c:
            statement = database.insert(c, meta).values(row)
            c.execute(statement.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": row["value"]}))

    def noted(self, key: str) -> str | None:
        """The value under a key, if any."""
        with self.reading() as c:
            value: str | None = c.execute(sa.select(meta.c.value).where(meta.c.key == database.storable(key))).scalar()
            return value

    # ---- segments

    def add(self, segments: Segments, keep: int = KEEP_SEGMENTS) -> Int64[np.ndarray, " n"]:
        """Store segments and return their numbers; the oldest that were never asked about make room.

        Raises:
            StoreError: their shapes differ from those already stored.
        """
        if len(segments) == 0:
            return np.zeros(0, np.int64)
        with self.transaction() as c:
            return stored_segments.add(c, segments, keep)

    def recent(self, count: int, states: bool = False) -> Segments | None:
        """The newest segments, oldest of them first; None while there are none."""
        with self.reading() as c:
            return stored_segments.recent(c, count, states)

    def sample(self, rng: np.random.Generator, count: int, among: int) -> Segments | None:
        """`count` segments drawn uniformly from the newest `among`, without states; None while there are none."""
        with self.reading() as c:
            return stored_segments.sample(c, rng, count, among)

    def segments(self, ids: Sequence[int] | Int64[np.ndarray, " n"], states: bool = False) -> Segments:
        """The segments of these numbers, in this order, repeats included.

        Raises:
            StoreError: one of them is not stored (any more).
        """
        with self.reading() as c:
            return stored_segments.by_id(c, ids, states)

    def set_clip(self, segment_id: int, clip: str) -> None:
        """Say under which hash a segment's drawing lies."""
        with self.transaction() as c:
            stored_segments.set_clip(c, segment_id, clip)

    def has_clip(self, clip: str) -> bool:
        """Whether some segment is drawn under this hash."""
        with self.reading() as c:
            return stored_segments.has_clip(c, clip)

    def drawn(self) -> list[tuple[int, str, bool]]:
        """Number, clip, and whether somebody may be shown it soon, of all segments with a clip; the oldest first."""
        with self.reading() as c:
            return stored_segments.drawn(c)

    def forget_clips(self, ids: Sequence[int]) -> None:
        """Know nothing of the drawings of these segments; whoever needs one has it drawn again."""
        with self.transaction() as c:
            stored_segments.forget_clips(c, list(ids))

    def undrawn(self, limit: int) -> list[int]:
        """Segments of open queries that nobody has drawn yet, those of the best queries first."""
        with self.reading() as c:
            return open_queries.undrawn(c, limit)

    def mark_drawn(self, overlap: float = 0.0) -> int:
        """Let people claim those open queries whose two segments have clips now; return how many became so.

        Args:
            overlap: the share of them that two annotators are to answer.
        """
        with self.transaction() as c:
            return open_queries.mark_drawn(c, overlap)

    # ---- queries

    def ask(
        self,
        pairs: Int64[np.ndarray, "q 2"],
        p_left: Float32[np.ndarray, "m q"] | None = None,
        policy_steps: int = 0,
    ) -> list[Query]:
        """Put pairs of segments (left, right) to the teachers; return the queries that this made.

        A pair that was asked before, in either order, is passed over, as is one whose segment has been pruned.
        """
        with self.transaction() as c:
            return open_queries.ask(c, self.clock(), pairs, p_left, policy_steps)

    def open_queries(self, unclaimed_only: bool = False) -> list[Query]:
        """Queries that wait for an answer, in the order in which they were asked."""
        with self.reading() as c:
            condition = open_queries.free(self.clock()) if unclaimed_only else query.c.status == OPEN
            return open_queries.waiting(c, condition)

    def queries(self, ids: Sequence[int]) -> list[Query]:
        """The queries of these numbers, in the order of their numbers."""
        possible = sorted({i for i in ids if 0 < i <= LARGEST_NUMBER})
        statement = sa.select(query).order_by(query.c.id)
        with self.reading() as c:
            return [
                as_query(row) for chunk in chunks(possible) for row in c.execute(statement.where(query.c.id.in_(chunk)))
            ]

    def rerank(self, queries: Sequence[Query], p_left: Float32[np.ndarray, "m q"]) -> None:
        """Give open queries new predictions; those in somebody's hands keep what they had."""
        with self.transaction() as c:
            open_queries.rerank(c, self.clock(), queries, p_left)

    def expire(self, ids: Iterable[int]) -> int:
        """Take back open queries that nobody holds; return how many were taken back."""
        with self.transaction() as c:
            return open_queries.expire(c, self.clock(), ids)

    def forget_unseen(self) -> int:
        """Forget queries that were taken back unseen, so that their segments can be pruned; return how many."""
        with self.transaction() as c:
            return open_queries.forget_unseen(c)

    def set_gold(self, query_id: int, choice: Choice | None, why: str = "") -> None:
        """Say which answer to a query is right, and why, so that annotators can be measured by it; None takes it back.

        Raises:
            StoreError: no such query.
        """
        with self.transaction() as c:
            open_queries.set_gold(c, query_id, choice, why)

    # ---- what annotators are shown, and what they answer

    def claim(
        self,
        annotator: str,
        count: int = 1,
        lease_seconds: float = LEASE_SECONDS,
        checks: Checks | None = None,
        besides: Collection[int] = (),
    ) -> list[Claim]:
        """Lend an annotator the best open queries that are drawn, not in other hands and not answered or left by them.

        One statement a query, so two annotators never get the same one. What the annotator holds already comes first:
        a page that was reloaded goes on where it was. None beyond the annotator's quota. What they hold of the showings
        `besides` is renewed, and not counted.
        """
        database.storable(annotator)
        with self.transaction() as c:
            return showings.claim(c, self.clock(), annotator, count, lease_seconds, checks or Checks(), besides)

    def lessons(self, annotator: str, count: int) -> list[Lesson]:
        """The first queries whose right answer is known and explained, to practise on; they are no part of D."""
        with self.transaction() as c:
            return showings.lessons(c, self.clock(), annotator, count)

    def shown(self, number: int, annotator: str) -> Showing:
        """What an annotator was shown under a number.

        Raises:
            StoreError: they were never shown that.
        """
        with self.reading() as c:
            return showings.shown(c, number, annotator)

    def answer(
        self, preference: Preference, details: dict[str, Any] | None = None, showing: Showing | None = None
    ) -> bool:
        """Store a choice; False if this very answer was stored before.

        A second answer of the same teacher to the same query supersedes the first.

        Args:
            showing: what was answered, where it was a page.

        Raises:
            StoreError: no such query, or the UUID belongs to another answer.
        """
        with self.transaction() as c:
            new = answers.answer(c, self.clock(), preference, details, _seen(showing))
            showings.ended(c, showing)
            return new

    def relabel(self, preference: Preference, instead_of: str) -> bool:
        """Put one's own choice in the place of somebody else's answer; False if this was stored before.

        Raises:
            StoreError: no such answer, or it does not stand any more.
        """
        with self.transaction() as c:
            return answers.relabel(c, self.clock(), preference, instead_of)

    def exclude(self, uuid: str, by: str, excluded: str) -> bool:
        """Take somebody's answer out of D, for good; False if this was stored before.

        Raises:
            StoreError: no such answer, or it does not stand any more.
        """
        with self.transaction() as c:
            return answers.exclude(c, self.clock(), uuid, by, excluded)

    def skip(self, uuid: str, query_id: int, annotator: str, showing: Showing | None = None) -> bool:
        """Put a query back for others, without a label; False if this was stored before."""
        with self.transaction() as c:
            new = answers.skip(c, self.clock(), uuid, query_id, annotator, _seen(showing))
            showings.ended(c, showing)
            return new

    def flag(self, uuid: str, query_id: int, annotator: str, reason: str = "", showing: Showing | None = None) -> bool:
        """Say that a query cannot be shown as it is: nobody is shown it again; False if this was stored before."""
        with self.transaction() as c:
            new = answers.flag(c, self.clock(), uuid, query_id, annotator, reason, _seen(showing))
            showings.ended(c, showing)
            return new

    def undo(self, uuid: str, annotator: str, undone: str) -> int | None:
        """Take back one's own answer, skip or flag; return the number under which one is shown its query again.

        Where others answered the query as often as was wanted, it is not opened again.
        None if there is nothing to take back: it was superseded already, or this undo was stored before.

        Raises:
            StoreError: no such answer of this annotator.
        """
        with self.transaction() as c:
            taken = answers.undo(c, self.clock(), uuid, annotator, undone, LEASE_SECONDS)
            if taken is None:
                return None
            number, purpose = taken
            return showings.lend_again(c, number, annotator, purpose, self.clock() + LEASE_SECONDS)

    # ---- who may do what, and what they are told

    def invite(self, name: str, role: Role = "label", quota: int | None = None) -> str:
        """Let somebody in; return their token, of which only a hash is kept. A name invited again gets a new one.

        Raises:
            StoreError: a name or quota that cannot be.
        """
        with self.transaction() as c:
            return accounts.invite(c, self.clock(), name, role, quota)

    def revoke(self, name: str) -> None:
        """Shut somebody out; their answers stay.

        Raises:
            StoreError: nobody of that name was invited.
        """
        with self.transaction() as c:
            accounts.revoke(c, self.clock(), name)

    def admitted(self, token: str) -> Account | None:
        """Whose token this is; None for nobody's, and for one that was revoked."""
        with self.reading() as c:
            return accounts.admitted(c, token)

    def accounts(self) -> list[Account]:
        """Everybody who was invited."""
        with self.reading() as c:
            return accounts.accounts(c)

    def instruct(self, text: str) -> Instruction:
        """Make a text what annotators read from now on; every answer says which text its annotator had.

        Raises:
            StoreError: no text, or too much of it.
        """
        with self.transaction() as c:
            return accounts.instruct(c, self.clock(), text)

    def instructed(self) -> Instruction | None:
        """What annotators read now, if anything was written for them."""
        with self.reading() as c:
            return accounts.instructed(c)

    # ---- what stands

    def changes(self, after: int = 0) -> Changes:
        """What the events after number `after` did to D; with 0, the whole of D as new."""
        with self.reading() as c:
            return standing.changes(c, after)

    def comparisons(self) -> Comparisons | None:
        """D as it stands; None while it is empty."""
        return self.changes().comparisons

    def preferences(self, newest: int | None = None) -> list[tuple[Preference, Query]]:
        """The choices that stand, oldest first, each with its query; only the `newest` so many if given."""
        with self.reading() as c:
            return standing.preferences(c, newest)

    def counts(self) -> Counts:
        """How many queries and answers there are now."""
        with self.reading() as c:
            return standing.counts(c)


def _seen(showing: Showing | None) -> Seen:
    return Seen() if showing is None else Seen(showing.purpose, showing.flipped, showing.instruction)


def new_uuid() -> str:
    """A fresh UUID for an answer."""
    return str(uuids.uuid4())


__all__ = [
    "KEEP_SEGMENTS",
    "LEASE_SECONDS",
    "Account",
    "Checks",
    "Claim",
    "Counts",
    "Instruction",
    "Lesson",
    "Role",
    "Showing",
    "Store",
    "StoreError",
    "new_uuid",
]
