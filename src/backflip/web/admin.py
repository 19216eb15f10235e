"""What admins do through the page: invite people, write what they read, look after answers."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from backflip.accounts import LONGEST_INSTRUCTION, LONGEST_NAME
from backflip.preferences import Choice, Preference
from backflip.store import Instruction, Role
from backflip.web.context import Here, Visitor
from backflip.web.messages import Sent, Uuid
from backflip.web.roles import needs

FIRST_PAGE: dict[Role, str] = {"label": "/label", "view": "/run", "admin": "/run"}
"""Where a link leads, by its role."""
ADMIN = [needs("admin")]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
QueryNumber = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
Why = Annotated[str, Field(max_length=200)]

people = APIRouter(prefix="/api")


class Invite(Sent):
    """Somebody to let in; whoever was invited before gets a new link, and the old one ends."""

    name: Name
    role: Role = "label"
    quota: Annotated[int, Field(ge=1, lt=2**31, strict=True)] | None = None
    """Answers that are wanted of them; None for as many as they like."""


class Revoke(Sent):
    """Somebody to shut out."""

    name: Name


class Instruct(Sent):
    """What annotators are to read from now on."""

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_INSTRUCTION)]


class Gold(Sent):
    """The right answer to a query, of its own left and right side; None takes it back."""

    query: QueryNumber
    choice: Choice | None
    why: Why = ""


class Exclude(Sent):
    """An answer to take out of D, for good."""

    uuid: Uuid
    excluded: Uuid


class Relabel(Sent):
    """One's own choice in the place of somebody's answer, of the query's own left and right side."""

    uuid: Uuid
    instead_of: Uuid
    query: QueryNumber
    choice: Choice


class Invited(BaseModel):
    """A link, which is said this once; add it to the page's address."""

    name: str
    role: Role
    link: str


class Done(BaseModel):
    """It is on the disk."""

    saved: bool = True
    duplicate: bool = False
    """The very same had been sent before."""


class Instructed(BaseModel):
    """What annotators read now; all None where nothing was written."""

    id: int | None = None
    text: str | None = None
    since: float | None = None


@people.post("/invite", dependencies=ADMIN)
def invite(here: Here, given: Invite) -> Invited:
    """Let somebody in."""
    token = here.store.invite(given.name, given.role, given.quota)
    return Invited(name=given.name, role=given.role, link=path_of(given.role, token))


@people.post("/revoke", dependencies=ADMIN)
def revoke(here: Here, given: Revoke) -> Done:
    """Shut somebody out, from their next request on; their answers stay."""
    here.store.revoke(given.name)
    return Done()


@people.post("/instruct", dependencies=ADMIN)
def instruct(here: Here, given: Instruct) -> Instructed:
    """Put a text in front of annotators; every answer says which text its annotator had."""
    return _instructed(here.store.instruct(given.text))


@people.get("/instruction", dependencies=[needs(None)])
def instruction(here: Here) -> Instructed:
    """What annotators read now."""
    return _instructed(here.store.instructed())


@people.post("/gold", dependencies=ADMIN)
def gold(here: Here, given: Gold) -> Done:
    """Say which answer to a query is right, so that annotators can be measured by it."""
    here.store.set_gold(given.query, given.choice, given.why)
    return Done()


@people.post("/exclude", dependencies=ADMIN)
def exclude(here: Here, visitor: Visitor, given: Exclude) -> Done:
    """Take somebody's answer out of D, for good."""
    return Done(duplicate=not here.store.exclude(given.uuid, visitor.annotator, given.excluded))


@people.post("/relabel", dependencies=ADMIN)
def relabel(here: Here, visitor: Visitor, given: Relabel) -> Done:
    """Put one's own choice in the place of somebody's answer."""
    own = Preference(given.uuid, given.query, given.choice, visitor.annotator, None)
    return Done(duplicate=not here.store.relabel(own, given.instead_of))


def path_of(role: Role, token: str) -> str:
    """What follows the page's address in a link."""
    return f"{FIRST_PAGE[role]}?token={token}"


def _instructed(found: Instruction | None) -> Instructed:
    return Instructed() if found is None else Instructed(**vars(found))
