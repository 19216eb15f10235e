"""Who may talk to the page: those who hold a token, from the page itself, under a name that we know.

One gate in front of every path, known or not, so that no route can be forgotten and none is decided by its spelling.
Behind it, every route says which role it needs (`backflip.web.roles`).
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import os
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backflip.accounts import LONGEST_INSTRUCTION
from backflip.errors import Mendable
from backflip.files import writing
from backflip.rundir import RunDir, RunError
from backflip.store import Role, Store, StoreError
from backflip.web.limits import Guesses, Pace

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
MOST_BODY_BYTES = 12 * LONGEST_INSTRUCTION + 1024
"""The longest that is sent is an instruction; JSON may have twelve bytes for a character of it."""
COOKIE_SECONDS = 30 * 24 * 3600
SAFE_METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")

RETRY_SECONDS = 1
"""When a page may try again after the store could not be used."""
UNKNOWN_VISITOR = (
    "This page belongs to a run, and only its links open it. Use the link that backflip printed when it started the "
    "page, or the one you were invited with; it ends in ?token=...\n"
)
WRONG_LINK = (
    "The token in this link opens nothing here, or not any more. Use the link that backflip printed when it started "
    "the page, or the one you were invited with, whole, to its last character.\n"
)
ANOTHER_LINK = (
    "Another link was opened in this browser meanwhile. To go on as before, open your own link again; to go on as "
    "whoever the other is for, reload this page.\n"
)
TOO_MANY_TOKENS = "Too many wrong tokens came from your address. Wait a minute, then use your link again.\n"
TOO_MANY_CHANGES = "That was quicker than answers are taken; send it again in a moment.\n"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Who is asking."""

    annotator: str
    role: Role


class ServerError(Mendable):
    """The page cannot be served there; the message says why and what to do."""


class HostRefused(ServerError):
    """The address or name is not one to serve under."""


@dataclass(frozen=True)
class Hosts:
    """Names under which the page may be called; others are how a foreign site would reach it (DNS rebinding)."""

    names: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    any_address: bool = False
    """Whether every bare IP address will do: nobody can make a browser send one for a site of theirs."""

    @classmethod
    def bound_to(cls, address: str, allowed: Iterable[str] = ()) -> "Hosts":
        """Those that make sense for a server that listens on an address, and others that were allowed.

        Raises:
            HostRefused: one of these is no name.
        """
        everywhere = ipaddress.ip_address(address).is_unspecified
        own = {socket.gethostname().lower()} if everywhere else {f"[{address}]" if ":" in address else address}
        for name in allowed:
            match = _HOST.fullmatch(name)
            if match is None or match["name"] != name:
                raise HostRefused(f"{name!r} cannot be the name of a host; use --allowed-host label.example.org")
        return cls(cls.names | own | {name.lower() for name in allowed}, everywhere)

    def allow(self, header: str) -> bool:
        """Whether a Host header names us."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = match["name"].lower()
        return name in self.names or (self.any_address and _is_address(name))


def run_token(run: RunDir) -> str:
    """The run's token; made at the first call and kept in the run, so that a restarted server knows its visitors.

    Raises:
        RunError: the file holds something else.
        CannotWrite: it cannot be made.
    """
    import fcntl

    path = run.path / "token"
    with writing(path):
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # whoever comes second reads what the first has written
        os.fchmod(file.fileno(), 0o600)
        token = file.read()
        if not token:
            token = secrets.token_urlsafe(32)
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
    if not _TOKEN.fullmatch(token):
        raise RunError(f"{path} is damaged; delete it, and the next start makes a new link")
    return token


def fingerprint(token: str) -> str:
    """A short public name for the run: browsers share cookies and storage among all ports of a machine."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def session(request: Request) -> Session:
    """Who is asking, as the gate found out."""
    found: Session = request.state.session
    return found


class Keys:
    """Whose token is whose: the run's own, and those of people who were invited.

    The store is asked each time, so that an invitation, or its end, holds at once.
    """

    def __init__(self, token: str, owner: str, store: Store) -> None:
        self.name = fingerprint(token)
        self._token = token.encode()
        self._owner = Session(owner, "admin")
        self._store = store

    def session(self, token: str) -> Session | None:
        """Whose token it is, if it is anybody's."""
        if hmac.compare_digest(token.encode(), self._token):
            return self._owner
        if not _TOKEN.fullmatch(token):
            return None
        account = self._store.admitted(token)
        return None if account is None else Session(account.name, account.role)


class Gate:
    """Lets a request through to the app, or answers it with a refusal in one sentence."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        hosts: Hosts,
        pace: Pace,
        guesses: Guesses,
        most_body_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        self.app = app
        self.most_body_bytes = most_body_bytes
        self.keys, self.hosts, self.pace, self.guesses = keys, hosts, pace, guesses
        self.cookie = f"backflip-{keys.name}"
        self._admitted: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                protect(MutableHeaders(scope=message))
            await send(message)

        request = Request(scope, receive)
        try:
            session = _refused_origin(request, self.hosts) or await self._visitor(request)
        except StoreError as error:
            session = _unusable(error)
        refusal = session if isinstance(session, Response) else _somebody_else(request, session)
        if refusal is None and isinstance(session, Session) and request.method not in SAFE_METHODS:
            receive, refusal = await _whole_body(request, self.most_body_bytes)
            refusal = refusal or self._too_quick(session)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        scope.setdefault("state", {})["session"] = session
        await self.app(scope, receive, send_guarded)

    async def _visitor(self, request: Request) -> Session | Response:
        """Who has the cookie; the cookie for who brings a token; else 401, or 429 for who has guessed too often."""
        in_link = request.query_params.get("token") if request.method == "GET" else None
        token = request.cookies.get(self.cookie, "") if in_link is None else in_link
        found = await self._whose(token, request.client.host if request.client else "") if token else None
        if isinstance(found, Response):
            return found
        if in_link is not None:
            return PlainTextResponse(WRONG_LINK, 401) if found is None else self._welcome(request, token)
        if found is not None:
            return found
        if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            # A strict cookie stays at home when somebody follows a link from another site; the page calling itself
            # brings it along. It cannot go round in circles: the second request is not cross-site.
            again = '<!doctype html><title>backflip</title><meta http-equiv="refresh" content="0"><p>'
            return HTMLResponse(again + UNKNOWN_VISITOR, 401)
        return PlainTextResponse(UNKNOWN_VISITOR, 401)

    async def _whose(self, token: str, address: str) -> Session | Response | None:
        """Whose token it is; somebody else's guesses at the same address do not shut out who is known."""
        if token not in self._admitted and (wait := self.guesses.wait(address, token)):
            return _later(TOO_MANY_TOKENS, wait)
        found = await run_in_threadpool(self.keys.session, token)
        if found is None:
            self._admitted.discard(token)
            self.guesses.wrong(address, token)
        else:
            self._admitted.add(token)
        return found

    def _too_quick(self, session: Session) -> Response | None:
        wait = self.pace.wait(session.annotator)
        return _later(TOO_MANY_CHANGES, wait) if wait else None

    def _welcome(self, request: Request, token: str) -> Response:
        """The cookie, and the way to the same page without the token in its address."""
        rest = urlencode([pair for pair in parse_qsl(request.url.query) if pair[0] != "token"])
        path = "/" + quote(request.scope["path"].lstrip("/"))  # "//elsewhere" would lead to another site
        response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(
            self.cookie,
            token,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.scope["scheme"] == "https",
        )
        return response


def protect(headers: MutableHeaders) -> None:
    """Add what every response carries."""
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("cache-control", "no-store")


def not_valid(_request: Request, error: Exception) -> Response:
    """422 with what is wrong where; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    wrong = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    return JSONResponse({"detail": "; ".join(wrong)}, 422)


def _later(why: str, wait: float) -> Response:
    """429: nothing was done, and the same may come again in so many seconds."""
    return PlainTextResponse(why, 429, {"retry-after": str(math.ceil(wait))})


def _unusable(error: StoreError) -> Response:
    """503 where the store cannot say who is asking: pages try again."""
    _log.error("%s", error)
    return PlainTextResponse(f"{error}\n", 503, {"retry-after": str(RETRY_SECONDS)})


def _somebody_else(request: Request, session: Session) -> Response | None:
    """Refuse a page that somebody else's link had opened: a browser has one cookie for all its tabs."""
    page = request.headers.get("x-backflip-you")
    return None if page is None or unquote(page) == session.annotator else PlainTextResponse(ANOTHER_LINK, 403)


def _refused_origin(request: Request, hosts: Hosts) -> Response | None:
    """Refuse a foreign Host; and for what changes something, a foreign page or anything a plain form could send."""
    headers: Headers = request.headers
    named = headers.getlist("host")
    if len(named) != 1 or not hosts.allow(named[0]):
        return PlainTextResponse("This server does not answer under that name; use the address it printed.\n", 400)
    if request.method in SAFE_METHODS:
        return None
    origin = headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != named[0].lower()
    if foreign or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("Answers come from this page only, not from other sites.\n", 403)
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return PlainTextResponse("Send application/json.\n", 415)
    return None


async def _whole_body(request: Request, most: int) -> tuple[Receive, Response | None]:
    """The body, read up to the limit, as something the app can read again; or a refusal."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return request.receive, PlainTextResponse(f"More than {most} bytes are too many.\n", 413)
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await request.receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay, None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
