"""r̂ of a run as a service: other trainers send texts, and get what the newest r̂ gives for them."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backflip.accounts import OWNER
from backflip.lm.models import ModelError
from backflip.lm.reward import CompletionReward, Reader, load_read, must_be_of
from backflip.lm.small import find
from backflip.lm.tune import ORIGINAL
from backflip.published import Published
from backflip.rundir import RunDir, RunError
from backflip.settings import settings_of
from backflip.store import Store
from backflip.texts import Text
from backflip.web.limits import Guesses, Pace
from backflip.web.roles import NotAllowed, guarded, needs
from backflip.web.security import Gate, Hosts, Keys, fingerprint, not_valid

_log = logging.getLogger(__name__)

MOST_TEXTS = 4096
"""Texts of one request."""
MOST_BODY_BYTES = 32 * 1024 * 1024
PER_SECOND, BURST = 1000.0, 10_000
"""Requests of one visitor: trainers are quicker than people."""
RETRY_SECONDS = 5


class NoReward(RunError):
    """The run has no r̂ yet."""


class NotThere(ValueError):
    """Texts that cannot be scored; the message says which and why."""


@dataclass(frozen=True)
class Scores:
    """What the newest r̂ gives for n texts."""

    rewards: Float32[np.ndarray, " n"]
    """In deviations of r̂ on the original's completions, aggregated as the run's policy is paid."""
    deviations: Float32[np.ndarray, " n"]
    """Deviation over the members: how little they agree."""
    version: int
    """The number of r̂."""


class Scorer:
    """Scores texts by the newest r̂ of a run, which may go on meanwhile; safe from several threads."""

    def __init__(self, run: RunDir) -> None:
        """Load the original and, if there is one, r̂.

        Raises:
            RunError: the run tunes no language model, or has not sampled from its original yet.
            ModelError: the model that it began with cannot be loaded.
        """
        config = settings_of(run).tune
        if config is None:
            raise RunError(f"{run.path} tunes no language model; its r̂ reads no texts")
        file = run.path / ORIGINAL
        if not file.exists():
            raise RunError(f"{run.path} has not sampled from its original yet; start the run first: backflip train")
        self.run, self.config = run, config
        self._published = Published(run)
        self._original = load_read(file)
        causal = find(config.model)
        must_be_of(file, causal)
        self._reader = Reader(causal, config)
        self._paid_by: CompletionReward | None = None
        self._lock = threading.Lock()
        self._said = False

    def __call__(self, texts: Sequence[Text]) -> Scores:
        """What the newest r̂ gives for texts.

        Raises:
            NoReward: there is none yet.
        """
        with self._lock:
            paid_by = self._newest()
            if not texts:
                nothing = np.zeros(0, np.float32)
                return Scores(nothing, nothing, self._published.version)
            if not self._said and (unread := self._reader.unread(texts)):
                self._said = True
                _log.warning(unread)
            read = self._reader.read(texts)
            members = paid_by.members(read)
            return Scores(paid_by(read), members.std(0).astype(np.float32), self._published.version)

    def _newest(self) -> CompletionReward:
        if self._published.refresh() and self._published.ensemble is not None:
            c = self.config
            self._paid_by = CompletionReward(self._published.ensemble, self._original, c.aggregate, c.pessimism)
        if self._paid_by is None:
            raise NoReward(f"{self.run.path} has no r̂ yet; it needs some answers first")
        return self._paid_by


def scorer(run: RunDir) -> Scorer:
    """A scorer of a run; a model that cannot be loaded is a fault of the run.

    Raises:
        RunError: r̂ of this run cannot read texts here.
    """
    try:
        return Scorer(run)
    except ModelError as error:
        raise RunError(str(error)) from error


# ---- over HTTP


class Asked(BaseModel):
    """What OpenRLHF's client of a remote reward model sends."""

    model_config = ConfigDict(extra="ignore")

    query: Annotated[list[str], Field(max_length=MOST_TEXTS)]
    """Prompts with their completions."""
    prompts: Annotated[list[str], Field(max_length=MOST_TEXTS)]
    """The prompts alone."""


class Answered(BaseModel):
    """What it reads then; `extra_logs` becomes measurements of the trainer."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]
    version: int


routes = APIRouter()


def _scoring(request: Request) -> Scorer:
    found: Scorer = request.app.state.scorer
    return found


@routes.post("/score", dependencies=[needs("view")])
def score(asked: Asked, scorer: Annotated[Scorer, Depends(_scoring)]) -> Answered:
    """What the newest r̂ gives for completions."""
    found = scorer(split(asked.query, asked.prompts))
    rewards = [float(reward) for reward in found.rewards]
    deviations = [float(deviation) for deviation in found.deviations]
    return Answered(rewards=rewards, scores=rewards, extra_logs={"reward_deviation": deviations}, version=found.version)


def split(queries: Sequence[str], prompts: Sequence[str]) -> list[Text]:
    """Prompts and completions from strings that hold both; what stands before a prompt (padding) is left out.

    Raises:
        NotThere: there are not as many of both, or a prompt is not in its string.
    """
    if len(queries) != len(prompts):
        raise NotThere(f"{len(queries)} query and {len(prompts)} prompts; send a prompt with each")
    texts = []
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        place = query.find(prompt)
        if place < 0:
            raise NotThere(f"query {number} does not hold its prompt, so that nobody knows where the completion begins")
        texts.append(Text(prompt, query[place + len(prompt) :]))
    return texts


def create_app(run: RunDir, token: str, hosts: Hosts | None = None, guesses: Guesses | None = None) -> FastAPI:
    """The app that scores texts; `app.state.store` is open until its owner closes it.

    The page's gate stands in front: the run's token, or that of somebody invited to watch, and no foreign Host. Other
    trainers' clients know an address only, so the token may stand in it, or in a header: Authorization: Bearer ...

    Args:
        token: the run's own.
        hosts: names under which it may be called; those of this machine's loopback if not given.
        guesses: how many wrong tokens it takes from one address.

    Raises:
        RunError: r̂ of this run cannot read texts here.
    """
    app = FastAPI(routes=guarded(routes.routes), docs_url=None, redoc_url=None, openapi_url=None)
    app.state.scorer = scorer(run)
    store = app.state.store = run.store()
    app.add_middleware(
        Gate,
        keys=Keys(token, OWNER, store),
        hosts=hosts or Hosts(),
        pace=Pace(PER_SECOND, BURST),
        guesses=guesses or Guesses(),
        most_body_bytes=MOST_BODY_BYTES,
    )
    app.add_middleware(TokenAsCookie, cookie=f"backflip-{fingerprint(token)}")
    app.add_exception_handler(NotThere, _refused(422))
    app.add_exception_handler(NotAllowed, _refused(403))
    app.add_exception_handler(RunError, _refused(503, {"retry-after": str(RETRY_SECONDS)}))
    app.add_exception_handler(RequestValidationError, not_valid)
    return app


class TokenAsCookie:
    """Puts the token of a request that has no cookies where the gate looks for it."""

    def __init__(self, app: ASGIApp, cookie: str) -> None:
        self.app, self.cookie = app, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            request = Request(scope)
            scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
            token = bearer.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")
            if token and "cookie" not in request.headers and token.isascii() and ";" not in token:
                MutableHeaders(scope=scope)["cookie"] = f"{self.cookie}={token}"
        await self.app(scope, receive, send)


def _refused(status: int, headers: dict[str, str] | None = None) -> Callable[[Request, Exception], Response]:
    """A handler that says an error in its sentence."""

    def handle(_request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", status, headers)

    return handle


def serve_scores(
    run: RunDir,
    listening: Any,
    token: str,
    stop_event: Callable[[], bool] | None = None,
    allowed_hosts: Sequence[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve the scores of a run until `stop_event()` is true or the process is told to end.

    Args:
        ready: called once nothing can be refused any more.

    Raises:
        RunError: r̂ of this run cannot read texts here.
        HostRefused: one of the allowed names cannot be one.
    """
    from backflip.loop import one_thread
    from backflip.web.server import serve_app

    one_thread()
    app = create_app(run, token, Hosts.bound_to(listening.getsockname()[0], allowed_hosts))
    store: Store = app.state.store
    with closing(store):
        ready()
        serve_app(app, listening, stop_event, bool(allowed_hosts))
