"""What the benchmarks of the page share: a run full of drawn pairs, its server in a process, and robots that answer.

A robot does what the page does: it holds three pairs, sends an answer under one UUID until it is acknowledged, and asks
for more after each.
"""

import asyncio
import glob
import hashlib
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from PIL import Image

from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store
from backflip.web.security import fingerprint, run_token

HELD = 3
"""Pairs that a page holds."""
START_SECONDS = 60.0
PATIENCE_SECONDS = 15.0
"""After so long without a word a page asks again."""
AGAIN_SECONDS = 0.3
CHUNK = 2000


def make_run(path: Path, store: str | None = None) -> RunDir:
    """A run that people teach and nobody trains."""
    settings = {"seed": 1, "task": "hopper-backflip", "question": "Which is the better backflip?", "teacher": "people"}
    return RunDir.create(path, settings | ({"store": store} if store else {}))


def supply(run: RunDir, store: Store, pairs: int) -> None:
    """Put so many pairs into a run, all with the same few drawings."""
    clips = [_draw(run, shade) for shade in range(16)]
    for begin in range(0, pairs, CHUNK):
        n = 2 * min(CHUNK, pairs - begin)
        ids = store.add(
            Segments(
                ids=np.full(n, -1, np.int64),
                observations=np.zeros((n, 4, 2), np.float32),
                actions=np.zeros((n, 4, 1), np.float32),
                true_rewards=np.full((n, 4), np.nan, np.float32),
                states=np.zeros((n, 4, 0), np.float32),
                policy_steps=np.zeros(n, np.int64),
                lengths=np.full(n, 4, np.int64),
            ),
            keep=n,
        )
        with store.transaction():
            store.ask(ids.reshape(-1, 2), np.full((3, n // 2), 0.75, np.float32))
            for i, number in enumerate(ids.tolist()):
                store.set_clip(number, clips[i % len(clips)])
            store.mark_drawn()


def _draw(run: RunDir, shade: int) -> str:
    name = hashlib.sha256(bytes([shade])).hexdigest()
    Image.new("RGB", (16, 8), (shade, shade, shade)).save(run.clips / f"{name}.png")
    sheet = {"frame_width": 8, "frame_height": 8, "columns": 2, "frames": 2, "fps": 10, "mime": "image/png"}
    (run.clips / f"{name}.json").write_text(json.dumps(sheet))
    return name


class Served:
    """A run's page in a process of its own, which may be killed and started again on the same port."""

    def __init__(self, run: RunDir, log: Path) -> None:
        self.run, self.log = run, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.token = run_token(run)
        self.home = f"http://127.0.0.1:{self.port}"
        self._said: IO[bytes] = log.open("ab")
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "backflip", "serve", str(self.run.path), "--port", str(self.port)]
        process = subprocess.Popen(command, stdout=self._said, stderr=subprocess.STDOUT)
        give_up = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return process
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"the page did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    @property
    def processor_seconds(self) -> float:
        """Processor time that the server has used since it was started."""
        spent = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as a power cut would, and start it again."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        self._said.close()


@dataclass
class Robot:
    """Somebody who answers a pair every so many seconds."""

    home: str
    name: str
    cookie: str
    seconds: float
    seed: int
    shown: set[int] = field(default_factory=set)
    sent: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By UUID: which showing, and what was chosen as it was seen."""
    acknowledged: set[str] = field(default_factory=set)
    ack_ms: list[float] = field(default_factory=list)
    """From the first sending of an answer to its acknowledgement."""
    next_ms: list[float] = field(default_factory=list)
    errors: int = 0
    starved: int = 0
    """How often there was no pair when it was time to answer."""
    _line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def answer_until(self, end: float) -> None:
        """Answer until `time.monotonic()` is `end`, then see that all that was sent is acknowledged."""
        rng = random.Random(self.seed)
        held: list[int] = []
        due = time.monotonic() + rng.random() * self.seconds
        await self._fill(held)
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.seconds, time.monotonic())
            if held:
                await self._answer(held.pop(0), rng)
            else:
                self.starved += 1
            await self._fill(held)
        self.hang_up()

    async def _answer(self, showing: int, rng: random.Random) -> None:
        name, choice = str(uuid.UUID(int=rng.getrandbits(128), version=4)), rng.choice(["left", "right", "equal"])
        self.sent[name] = (showing, choice)
        begun = time.perf_counter()
        body = {"uuid": name, "showing": showing, "choice": choice, "seconds": self.seconds, "loops": 1.0}
        while await self._ask("POST", "/api/answer", body) is None:
            await asyncio.sleep(AGAIN_SECONDS)
        self.ack_ms.append(1000 * (time.perf_counter() - begun))
        self.acknowledged.add(name)

    async def _fill(self, held: list[int]) -> None:
        begun = time.perf_counter()
        have = ",".join(map(str, held))
        reply = await self._ask("GET", f"/api/next?count={HELD - len(held)}&have={have}")
        if reply is not None:
            self.next_ms.append(1000 * (time.perf_counter() - begun))
            held += [pair["showing"] for pair in reply["pairs"]]
            self.shown.update(held)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The server's reply; None where there is none, or it says to come again."""
        try:
            status, content = await asyncio.wait_for(self._exchange(method, path, body), PATIENCE_SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.errors += 1
            self.hang_up()
            return None
        if status == 200:
            return json.loads(content)
        self.errors += 1
        if status not in (429, 503):
            raise SystemExit(f"{method} {path} gave {status}: {content.decode()}")
        return None

    async def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        sent = b"" if body is None else json.dumps(body).encode()
        host = self.home.removeprefix("http://")
        head = [f"{method} {path} HTTP/1.1", f"host: {host}", f"cookie: {self.cookie}"]
        if body is not None:
            head += ["content-type: application/json", f"content-length: {len(sent)}", f"origin: {self.home}"]
        if self._line is None:
            self._line = await asyncio.open_connection(*host.split(":"))
        reader, writer = self._line
        writer.write("\r\n".join([*head, "", ""]).encode() + sent)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.split("content-length:")[1].split("\r\n")[0])
        return int(answer.split()[1]), await reader.readexactly(length)

    def hang_up(self) -> None:
        """Close the connection; the next request opens another."""
        if self._line is not None:
            self._line[1].close()
            self._line = None


def invite_robots(run: RunDir, store: Store, home: str, count: int, seconds: float) -> list[Robot]:
    """So many robots, each with an invitation of its own."""
    cookie = f"backflip-{fingerprint(run_token(run))}"
    return [
        Robot(home, f"robot {i}", f"{cookie}={store.invite(f'robot {i}')}", seconds, seed=1000 * count + i)
        for i in range(count)
    ]


@contextmanager
def database(kind: str, url: str | None = None) -> Iterator[str | None]:
    """The address of an empty database of a kind; None for SQLite in the run directory.

    PostgreSQL at an address that was given, or a server of our own for as long as it is needed, on a disk and with its
    usual durability.
    """
    if kind == "sqlite" or url:
        yield url
        return
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not programs and shutil.which("initdb") is None:
        raise SystemExit("no PostgreSQL here: apt-get install postgresql, or give the address of one with --url")
    found = Path(programs[-1]) if programs else Path(str(shutil.which("initdb"))).parent
    home = Path(tempfile.mkdtemp(prefix="backflip-pg-"))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(home, user.pw_uid, user.pw_gid)
    options: dict[str, Any] = {"cwd": home, "env": {**os.environ, "LC_ALL": "C"}, "stdout": subprocess.DEVNULL, **who}
    data = str(home / "data")
    create = [str(found / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run(create, check=True, **options)
    command = [str(found / "postgres"), "-D", data, "-k", str(home), "-clisten_addresses=", "-cmax_connections=100"]
    process: subprocess.Popen[bytes] = subprocess.Popen(command, stderr=(home / "log").open("wb"), **options)
    try:
        address = f"postgresql://postgres@/postgres?host={home}"
        _await(address, process)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _await(address: str, process: "subprocess.Popen[bytes]") -> None:
    import psycopg

    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            with closing(psycopg.connect(address)):
                return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > give_up:
                raise
            time.sleep(0.05)
