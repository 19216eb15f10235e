"""Which role a route needs. Every route says so with `needs`, or there is no app: none can be open by an oversight."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from backflip.store import Role
from backflip.web.security import Session, session

WHAT = {"label": "answer", "view": "watch the run", "admin": "change the run"}


class NotAllowed(Exception):
    """Somebody we know asked for what their role does not have."""


class OpenRoute(Exception):
    """A defect of ours: a route that does not say whom it lets in."""


@dataclass(frozen=True)
class Needs:
    """Lets those with a role through, and admins; without a role, everybody who has a token."""

    role: Role | None

    def __call__(self, request: Request) -> Session:
        """Who is asking.

        Raises:
            NotAllowed: their role is another one.
        """
        visitor = session(request)
        if self.role is not None and visitor.role not in (self.role, "admin"):
            raise NotAllowed(
                f"Your link lets you {WHAT[visitor.role]}; for this you need one that lets you {WHAT[self.role]}. "
                "Ask whoever invited you."
            )
        return visitor


def needs(role: Role | None) -> Any:
    """A dependency that lets only a role (and admins) through; None for everybody who has a token."""
    return Depends(Needs(role))


def guarded(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """The routes, each of which says whom it lets in.

    Raises:
        OpenRoute: one does not.
    """
    checked = list(routes)
    for route in checked:
        if not needed(route):
            raise OpenRoute(f"the route {getattr(route, 'path', route)!r} does not say which role it needs: needs(...)")
    return checked


def needed(route: BaseRoute) -> list[Needs]:
    """What a route needs of its visitors, all of it; empty where it does not say."""
    return [call for call in _calls(route.dependant) if isinstance(call, Needs)] if isinstance(route, APIRoute) else []


def _calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for inner in dependant.dependencies:
        yield from _calls(inner)
