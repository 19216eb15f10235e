"""Annotators' accounts: invitations with a role, a quota and an end; and the instructions that annotators read."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from backflip.database import StoreError, storable
from backflip.schema import annotator, instruction

Role = Literal["label", "view", "admin"]
"""label: answers queries. view: watches the run. admin: both, and invites others, changes instructions and answers."""
OWNER = "you"
"""Under which name whoever started the run answers; nobody else can be invited by it."""
OF_TEACHERS = frozenset({"judge", "scripted", "oracle", "stochastic", "mistake", "skip", "myopic", "equal", "people"})
"""Under these names programs answer; an account of such a name would pass for one."""
LONGEST_NAME = 60
LONGEST_INSTRUCTION = 8000


@dataclass(frozen=True)
class Account:
    """Somebody who was invited."""

    name: str
    role: Role
    quota: int | None
    """Answers that are wanted of them; None for as many as they like."""
    invited_at: float
    revoked_at: float | None


@dataclass(frozen=True)
class Instruction:
    """What annotators are asked to look for, in one version."""

    id: int
    text: str
    since: float


def invite(c: sa.Connection, now: float, name: str, role: Role, quota: int | None) -> str:
    """Let somebody in, and return their token, which is stored only as a hash.

    Inviting a name again gives it a new token, role and quota; the old link stops working, the answers stay theirs.

    Raises:
        StoreError: a name or quota that cannot be.
    """
    if not name or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise StoreError(f"{name!r} cannot be a name; use 1 to {LONGEST_NAME} printable characters")
    if name == OWNER:
        raise StoreError(f"{name!r} is whoever started the run; choose another name")
    if name.lower() in OF_TEACHERS:
        raise StoreError(f"{name!r} is the name of a teacher that is a program; choose another name")
    if quota is not None and quota < 1:
        raise StoreError(f"a quota of {quota} answers cannot be; leave it out for no bound")
    token = secrets.token_urlsafe(32)
    values = {"role": role, "token_hash": token_hash(token), "quota": quota, "invited_at": now, "revoked_at": None}
    known = c.execute(annotator.update().where(annotator.c.name == storable(name)).values(values))
    if known.rowcount == 0:
        c.execute(annotator.insert().values(name=name, **values))
    return token


def revoke(c: sa.Connection, now: float, name: str) -> None:
    """Shut somebody out; their answers stay.

    Raises:
        StoreError: nobody of that name was invited.
    """
    shut = annotator.update().where(annotator.c.name == storable(name), annotator.c.revoked_at.is_(None))
    if c.execute(shut.values(revoked_at=now)).rowcount == 0 and account(c, name) is None:
        raise StoreError(f"nobody called {name!r} was invited")


def account(c: sa.Connection, name: str) -> Account | None:
    """The account of a name, also one that was revoked."""
    return _first(c, annotator.c.name == storable(name))


def admitted(c: sa.Connection, token: str) -> Account | None:
    """Whose token this is; None for nobody's, and for one that was revoked."""
    return _first(c, (annotator.c.token_hash == token_hash(token)) & annotator.c.revoked_at.is_(None))


def accounts(c: sa.Connection) -> list[Account]:
    """Everybody who was invited, in the order of their names."""
    return [_account(row) for row in c.execute(sa.select(annotator).order_by(annotator.c.name))]


def token_hash(token: str) -> str:
    """What is stored of a token: it is random enough that nobody finds it from this."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def instruct(c: sa.Connection, now: float, text: str) -> Instruction:
    """Make a text the instruction from now on; the newest one again if it is the same.

    Raises:
        StoreError: no text, or more than fits.
    """
    text = storable(text.strip())
    if not 0 < len(text) <= LONGEST_INSTRUCTION:
        raise StoreError(f"an instruction has 1 to {LONGEST_INSTRUCTION} characters; this one has {len(text)}")
    newest = instructed(c)
    if newest is not None and newest.text == text:
        return newest
    made = instruction.insert().values(text=text, since=now).returning(instruction.c.id)
    return Instruction(int(c.execute(made).scalar_one()), text, now)


def instructed(c: sa.Connection) -> Instruction | None:
    """The newest instruction, if there is one."""
    row = c.execute(sa.select(instruction).order_by(instruction.c.id.desc()).limit(1)).first()
    return None if row is None else Instruction(row.id, row.text, row.since)


def _first(c: sa.Connection, condition: sa.ColumnElement[bool]) -> Account | None:
    row = c.execute(sa.select(annotator).where(condition)).first()
    return None if row is None else _account(row)


def _account(row: Any) -> Account:
    return Account(row.name, row.role, row.quota, row.invited_at, row.revoked_at)
