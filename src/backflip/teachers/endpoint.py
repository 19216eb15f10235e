"""A chat-completions endpoint as many servers have it: one question, one reply, errors as sentences."""

import email.utils
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from backflip.errors import in_one_line

URL, KEY, MODEL = "BACKFLIP_JUDGE_URL", "BACKFLIP_JUDGE_KEY", "BACKFLIP_JUDGE_MODEL"
PATH = "/chat/completions"
REQUEST_SECONDS = 45.0
"""How long one request may take: a reply is asked for twice, and a run that is asked to stop waits two minutes."""
MOST_REPLY_BYTES = 2_000_000
LONGEST_WHY = 200
"""Characters of an endpoint's own words in a message."""

Content = str | list[dict[str, Any]]
"""What a message says: a text, or texts and pictures."""


class EndpointError(Exception):
    """No reply; the message says why and what to do."""

    def __init__(self, sentence: str, wait_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.wait_seconds = wait_seconds
        """How long the endpoint wants to be left alone, if it said so."""


class NotSet(ValueError):
    """The environment does not say which endpoint; the message says what is missing."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, whom, and by which right."""

    url: str = field(repr=False)
    model: str
    key: str = field(default="", repr=False)
    """Sent to the endpoint, and never shown or stored anywhere."""
    timeout: float = REQUEST_SECONDS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Endpoint":
        """The endpoint that the environment variables name.

        Raises:
            NotSet: one is missing, or cannot be.
        """
        given = os.environ if environment is None else environment
        url, key, model = (given.get(name, "").strip() for name in (URL, KEY, MODEL))
        for name, value, example in ((URL, url, "http://localhost:8000/v1"), (MODEL, model, "the model's name")):
            if not value:
                raise NotSet(f"{name} is not set, and a judge needs it; export {name}={example}")
        try:
            parts = urllib.parse.urlsplit(url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
        if not fine or not url.isascii() or not url.isprintable() or " " in url:
            raise NotSet(f"{URL} is no address of an endpoint; it looks like https://host/v1")
        if parts.username is not None or parts.password is not None:
            raise NotSet(f"{URL} has a name or a password in it; put the key into {KEY} instead")
        if not key.isascii() or not key.isprintable():
            raise NotSet(f"{KEY} has characters that no key has; copy it again")
        return cls(url, model, key)

    @property
    def host(self) -> str:
        """What to call it in messages: no path or query, which may hold a secret."""
        return urllib.parse.urlsplit(self.url).netloc

    def reply(self, system: str, content: Content) -> str:
        """What the model says to some instructions and a message.

        Raises:
            EndpointError: it says nothing, or not in the form of a chat completion.
        """
        asked = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": content}],
        }
        return self._text(self._post(json.dumps(asked).encode()))

    def _post(self, body: bytes) -> bytes:
        parts = urllib.parse.urlsplit(self.url)
        path = parts.path.rstrip("/")
        whole = parts._replace(path=path if path.endswith(PATH) else path + PATH, fragment="").geturl()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "backflip"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(whole, body, headers, method="POST")  # noqa: S310 (http or https: see above)
        try:
            with _opener().open(request, timeout=self.timeout) as answer:
                return self._read(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", error)
            why = getattr(why, "strerror", None) or str(why) or type(why).__name__
            raise EndpointError(f"the judge at {self.host} does not answer ({self._harmless(why)})") from None

    def _read(self, answer: Any) -> bytes:
        """The whole answer, unless it is endless or comes too slowly."""
        deadline = time.monotonic() + self.timeout
        parts, size = [], 0
        while part := answer.read1(65536):
            parts.append(part)
            size += len(part)
            if size > MOST_REPLY_BYTES:
                raise EndpointError(f"the judge at {self.host} sent more than {MOST_REPLY_BYTES:,} bytes; check {URL}")
            if time.monotonic() > deadline:
                raise EndpointError(f"the judge at {self.host} took longer than {self.timeout:g} s")
        return b"".join(parts)

    def _refusal(self, error: urllib.error.HTTPError) -> EndpointError:
        status, wait = error.code, _seconds(error.headers.get("Retry-After"))
        who = f"the judge at {self.host}"
        if status in (401, 403):  # whose own words often quote the key
            return EndpointError(f"{who} does not accept the key ({status}); set {KEY} and resume the run", wait)
        if status == 429:
            return EndpointError(f"{who} has had enough requests for now (429)", wait)
        if status >= 500:
            return EndpointError(f"{who} is out of order ({status})", wait)
        if 300 <= status < 400:
            return EndpointError(f"{who} has moved ({status}); set {URL} to its new address and resume the run", wait)
        why = self._harmless(_complaint(error))
        said = f"{status}: {why}" if why else str(status)
        return EndpointError(f"{who} refuses what it is asked ({said}); check {URL} and {MODEL}", wait)

    def _harmless(self, words: Any) -> str:
        """Words from outside, in one line, short, and without the key."""
        text = str(words)
        text = text.replace(self.key, "[key]") if self.key else text
        return in_one_line(text, LONGEST_WHY)

    def _text(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
            if isinstance(content, list):
                content = "".join(part.get("text") or "" for part in content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise EndpointError(
                f"the judge at {self.host} does not answer as a chat-completions endpoint does; check {URL}"
            ) from None
        return content if isinstance(content, str) else ""


class _Nowhere(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: the key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Nowhere)


def _complaint(error: urllib.error.HTTPError) -> str:
    """What an endpoint says about its refusal, in any of the usual forms."""
    try:
        said = json.loads(error.read(10_000))
        said = said.get("error", said)
        return str(said.get("message", "") if isinstance(said, dict) else said)
    except (OSError, HTTPException, ValueError, AttributeError, RecursionError):
        return ""


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, which has a number or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
