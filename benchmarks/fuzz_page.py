"""What a hostile visitor gets from the page: sentences, never a traceback; and what an honest one loses by it: nothing.

    python benchmarks/fuzz_page.py [--minutes 5] [--quick]

A real server, and a robot that answers on it all the while. First a corpus: hostile strings in every text that the page
hears, addresses that look for files, requests that are no HTTP, drawings that are damaged. Then, until the time is
over, what schemathesis makes of the OpenAPI description, valid and not, sent under many invitations, so that no limit
hides a defect. `server_errors`: replies of 500 and more. `tracebacks`: in the server's log. `unprotected`: replies
without the headers that every one has to carry. `lost`, `unseen`: of the robot's answers, as in labelling_load.py. The
last line is a JSON object of the figures; the exit status is 1 where one of these is not 0.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx

from backflip.rundir import RunDir
from backflip.store import Store, new_uuid
from backflip.web.app import create_app
from backflip.web.security import HEADERS, fingerprint, run_token
from labelling_load import checked
from served import Served, invite_robots, make_run, supply

STRINGS = [
    "",
    " ",
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "javascript:alert(1)",
    "'; drop table event; --",
    "' or 1=1 --",
    '") union select token_hash from annotator --',
    "../../../../etc/passwd",
    "..\\..\\run.json",
    "/etc/passwd\x00.png",
    "${jndi:ldap://x/a}",
    "{{7*7}}{%raw%}",
    "$(reboot)`reboot`",
    "%s%n%x%d",
    "a\r\nset-cookie: x=y",
    "\x00",
    "\x1b[2J",
    "\u202e\u2066evil",
    "\ud800",
    "\uffff\ufeff",
    "🙃" * 30,
    "İıßſ",
    "é" * 59,
    "A" * 7_000,
    "[" * 5_000,
    "NaN",
    "-0",
    "1e309",
    "null",
    "true",
    "__proto__",
    "constructor",
    "0" * 64,
    "00000000-0000-0000-0000-000000000000",
]
OTHERS: list[Any] = [None, True, 0, -1, 1, 2**31, 2**63, 2**70, -(2**63), 0.5, 1e308, [], {}, [[]], {"$ne": 1}]
NAMES = [
    "..",
    "../run.json",
    "..%2frun.json",
    "%2e%2e%2frun.json",
    "%252e%252e%252frun.json",
    "....//run.json",
    "..;/run.json",
    "..%5c..%5crun.json",
    "%c0%ae%c0%ae%2frun.json",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc/passwd",
    "run.db",
    "run.db-wal",
    "token",
    "x%00.png",
    "0" * 64,
    "0" * 64 + "%0a",
    "0" * 64 + ".json",
    "0" * 5_000,
    "%ff%fe",
    "%",
    "%zz",
    "*",
    "con",
    "nul%20",
]
DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b"[" * 200_000,
    b'{"frame_width": 1e400, "frame_height": NaN}',
    b'{"frame_width": -8, "frame_height": 8, "columns": 0, "frames": 0, "fps": 0, "mime": "image/png"}',
    b'{"frame_width": 8, "frame_height": 8, "columns": 2, "frames": 2, "fps": 10, "mime": "text/html"}',
    b'{"frame_width": 8, "frame_height": 8, "columns": 2, "frames": 2, "fps": 10, "mime": "../../run.json"}',
    b'{"a": "' + b"x" * 3_000_000 + b'"}',
]
"""Descriptions of a drawing."""
FUZZERS = 100
"""Invitations to fuzz under: five changes a second each."""
EXAMPLES = 40
"""Of one route and one kind, before the next route has its turn."""
PAIRS = 6_000


class Attack:
    """Sends what is hostile, and keeps count of what came back."""

    def __init__(self, page: Served, cookies: list[str]) -> None:
        self.page = page
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.unprotected: list[str] = []
        self._client = httpx.Client(base_url=page.home, follow_redirects=False, timeout=30)
        self._cookies = itertools.cycle(cookies)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request with the next invitation."""
        headers = {"cookie": next(self._cookies), **more.pop("headers", {})}
        what = f"{method} {path[:200]} {str(more)[:300]}"
        try:
            reply = self._client.request(method, path, headers=headers, **more)
        except httpx.ReadError:  # the server hung up after its reply before, as it does after a mistake of its own
            reply = self._client.request(method, path, headers=headers, **more)
        self.heard(what, reply.status_code, dict(reply.headers))
        if b"Traceback" in reply.content:
            self.wrong.append(f"a traceback: {what}")
        return reply

    def heard(self, what: str, status: int, headers: dict[str, str]) -> None:
        """Note a reply."""
        self.statuses[status] += 1
        if status >= 500:
            self.wrong.append(f"{status}: {what}")
        if any(headers.get(name) != value for name, value in HEADERS.items()):
            self.unprotected.append(what)

    def raw(self, sent: bytes) -> None:
        """Bytes that may be no request; the server may hang up without a word, or say 400 before our app hears it."""
        with socket.create_connection(("127.0.0.1", self.page.port), timeout=1) as line, suppress(OSError):
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            reply = line.recv(4096)
            if reply.startswith(b"HTTP/1.1 ") and reply[9:12].isdigit():
                self.statuses[int(reply[9:12])] += 1
                if reply[9:10] == b"5":
                    self.wrong.append(f"{reply[:60]!r}: {sent[:200]!r}")


def corpus(attack: Attack, run: RunDir, described: dict[str, Any], every: int) -> None:
    """What has gone wrong elsewhere; of what is put into bodies and addresses, one in so many."""
    for path, operation in described["paths"].items():
        for method, about in operation.items():
            if method == "post":
                for body in itertools.islice(_bodies(described, about), 0, None, every):
                    attack.send("POST", path, content=_json(body), headers={"content-type": "application/json"})
            for name in (parameter["name"] for parameter in about.get("parameters", [])):
                for text in filter(_can_be_sent, STRINGS[::every]):
                    attack.send(method.upper(), path.replace("{" + name + "}", "x"), params={name: text})
    for folder in ("clips", "static", "api", "api/next", "label", "."):
        for name in NAMES:
            attack.raw(
                f"GET /{folder}/{name} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n".encode() + _own(attack)
            )
    for sent in _no_requests():
        attack.raw(sent)
    for text in filter(_can_be_sent, STRINGS):
        attack.send("GET", "/label", params={"token": text})
    for text in (text for text in STRINGS if text.isascii() and text.isprintable()):
        attack.send("GET", "/label", headers={"cookie": f"backflip-{fingerprint(attack.page.token)}={text.strip()}"})
    _damage(attack, run)


def _bodies(described: dict[str, Any], about: dict[str, Any]) -> Iterator[Any]:
    """A route's body with each of its parts replaced by what does not belong there."""
    reference = about["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    names = list(described["components"]["schemas"][reference]["properties"])
    usual = {"uuid": new_uuid(), "undone": new_uuid(), "excluded": new_uuid(), "instead_of": new_uuid(), "name": "ana"}
    usual |= {"choice": "left", "text": "Which is better?"}
    whole = {name: usual.get(name, 1) for name in names if name in usual or name in ("showing", "query")}
    for name in names:
        for value in [*STRINGS, *OTHERS]:
            yield {**whole, name: value}
    yield from ({**whole, text: text} for text in STRINGS)
    yield from [*STRINGS, *OTHERS]


def _can_be_sent(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()  # lone surrogates as \ud800, which JSON allows


def _own(attack: Attack) -> bytes:
    cookie = f"backflip-{fingerprint(attack.page.token)}={attack.page.token}"
    return f"cookie: {cookie}\r\n\r\n".encode()


def _no_requests() -> Iterator[bytes]:
    rng = random.Random(0)
    yield from (b"", b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(64)  # TLS
    for head in (
        b"GET / HTTP/1.1",
        b"POST /api/answer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1",
        b"POST /api/answer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ncontent-length: 6",
        b"POST /api/answer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99999999999999999999",
        b"POST /api/answer HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
        b"POST /api/answer HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked, identity",
        b"GET http://evil.example/ HTTP/1.1\r\nhost: 127.0.0.1",
        b"GET //evil.example/%2f.. HTTP/1.1\r\nhost: 127.0.0.1",
        b"CONNECT evil.example:80 HTTP/1.1\r\nhost: 127.0.0.1",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n folded: x",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: " + b"a=b; " * 10_000,
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 20_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: 127.0.0.1",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nrange: bytes=0-,-1,5-2",
        b"GET / HTTP/1.1\r\nhost: \xff\xfe\x00",
    ):
        yield head + b"\r\n\r\n"
        yield head + b"\r\n\r\n0\r\n\r\n" + rng.randbytes(200)
    yield from (rng.randbytes(size) for size in (1, 10, 100, 1_000, 100_000))


def _damage(attack: Attack, run: RunDir) -> None:
    """Drawings whose description or picture is not what it should be; the run has others."""
    clip = sorted(run.clips.glob("*.json"))[0]
    whole, picture = clip.read_bytes(), clip.with_suffix(".png")
    for damaged in DAMAGED:
        clip.write_bytes(damaged)
        attack.send("GET", "/api/next?count=10")
    clip.unlink()
    clip.mkdir()
    attack.send("GET", "/api/next?count=10")
    clip.rmdir()
    clip.write_bytes(whole)
    kept = picture.read_bytes()
    for target in ("/etc/passwd", "/", "/nowhere", str(run.path / "run.json")):
        picture.unlink()
        picture.symlink_to(target)
        reply = attack.send("GET", f"/clips/{clip.stem}")
        if reply.status_code != 404:
            attack.wrong.append(f"a drawing that leads to {target} is served")
        attack.send("GET", "/api/next?count=10")
    picture.unlink()
    picture.write_bytes(kept)


def schemathesis_until(end: float, attack: Attack, described: dict[str, Any]) -> int:
    """What schemathesis makes of the description, route after route; how many routes there are."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from hypothesis.errors import Unsatisfiable
        from schemathesis.core.result import Ok
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"fuzzing needs schemathesis: pip install -c constraints.txt 'schemathesis>=4' ({error})"
        ) from error
    schema = schemathesis.openapi.from_dict(described)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    quiet = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    kinds = list(schemathesis.GenerationMode)
    for turn, (operation, kind) in enumerate(itertools.cycle(itertools.product(operations, kinds))):
        if time.monotonic() > end:
            return len(operations)

        @seed(turn)
        @quiet
        @given(operation.as_strategy(generation_mode=kind))
        def once(case: Any) -> None:
            if time.monotonic() < end:
                _send_case(attack, case)

        with suppress(Unsatisfiable):
            once()
    raise AssertionError("the cycle has no end")


def _send_case(attack: Attack, case: Any) -> None:
    made = case.as_transport_kwargs(base_url=attack.page.home)
    sendable = {name: made[name] for name in ("params", "json", "data", "files") if made.get(name) is not None}
    if isinstance(sendable.get("data"), bytes | str):
        sendable["content"] = sendable.pop("data")
    try:
        attack.send(made["method"], made["url"], headers=dict(made.get("headers") or {}), **sendable)
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError, ValueError, TypeError):
        attack.statuses[0] += 1  # what cannot be put into a request


def fuzz(minutes: float, every: int = 1) -> dict[str, Any]:
    """The whole attack, with one in so many of the corpus."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        described = describe(Path(folder) / "described")
        with closing(run.store()) as store:
            supply(run, store, PAIRS)
            log = Path(folder) / "log"
            with Served(run, log) as page:
                (robot,) = invite_robots(run, store, page.home, 1, 0.5)
                attack = Attack(page, invited(run, store))
                end = time.monotonic() + 60 * minutes
                honest = threading.Thread(target=asyncio.run, args=(robot.answer_until(end),), daemon=True)
                honest.start()
                corpus(attack, run, described, every)
                from_corpus = attack.statuses.total()
                operations = schemathesis_until(end, attack, described)
                honest.join(60)
                alive = attack.send("GET", "/api/next").status_code == 200 and not honest.is_alive()
            found = checked(store, [robot])
            said = log.read_text(errors="replace")
    for line in [*attack.wrong[:20], *attack.unprotected[:20]]:
        print(line)
    if "Traceback" in said:
        print(said[said.index("Traceback") :][:5_000])
    return {
        "minutes": minutes,
        "routes": operations,
        "requests": attack.statuses.total(),
        "of_the_corpus": from_corpus,
        "by_status": {str(status): count for status, count in sorted(attack.statuses.items())},
        "server_errors": len(attack.wrong),
        "tracebacks": said.count("Traceback"),
        "unprotected": len(attack.unprotected),
        "answers": len(robot.acknowledged),
        "sent": len(robot.sent),
        "lost": found["lost"] + len(robot.sent) - len(robot.acknowledged),
        "unseen": found["unseen"],
        "alive_at_the_end": alive,
        "load_average": round(os.getloadavg()[0], 1),
    }


def describe(path: Path) -> dict[str, Any]:
    """The OpenAPI description of the page, which is not served."""
    run = make_run(path)
    app = create_app(run, run_token(run))
    app.state.context.store.close()
    return app.openapi()


def invited(run: RunDir, store: Store) -> list[str]:
    """Cookies of so many admins, to whom every route is open, and of some who may do less."""
    cookie = f"backflip-{fingerprint(run_token(run))}"
    admins = [f"{cookie}={store.invite(f'fuzzer {i}', 'admin')}" for i in range(FUZZERS)]
    return [
        *admins,
        f"{cookie}={store.invite('labels')}",
        f"{cookie}={store.invite('views', 'view')}",
        f"{cookie}=wrong",
    ]


def main() -> None:
    """The figures, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="twenty seconds")
    options = parser.parse_args()
    figures = fuzz(1 / 3, every=5) if options.quick else fuzz(options.minutes)
    print(json.dumps(figures))
    bad = [figures[name] for name in ("server_errors", "tracebacks", "unprotected", "lost", "unseen")]
    sys.exit(1 if any(bad) or not figures["alive_at_the_end"] else 0)


if __name__ == "__main__":
    main()
