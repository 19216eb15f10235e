"""Every process of a run that people teach is killed, again and again: no acknowledged answer is lost or doubled."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from contextlib import closing, suppress
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from backflip.preferences import Choice
    from backflip.rundir import RunDir
    from backflip.store import Store

KILLS = 20
PARTS = ("run", "act", "ask", "fit", "page")
pytestmark = pytest.mark.slow


class Labeller(threading.Thread):
    """Answers what it is shown; sends an answer again, under its UUID, until it is acknowledged: as the page does."""

    def __init__(self, port: int, token: str) -> None:
        super().__init__(daemon=True)
        self.home = f"http://127.0.0.1:{port}"
        self.token = token
        self.acknowledged: dict[str, tuple[int, str]] = {}
        """By UUID, under which number a pair was shown, and what was chosen as it was seen."""
        self.sent: dict[str, tuple[int, str]] = {}
        self.outbox: list[tuple[str, int, str]] = []
        self.stopped = threading.Event()
        self.random = random.Random(0)
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._visit()
            except (OSError, urllib.error.URLError, json.JSONDecodeError):
                self.stopped.wait(0.2)

    def _visit(self) -> None:
        self._get(f"/label?token={self.token}")
        while not self.stopped.is_set():
            if not self.outbox:
                for pair in json.loads(self._get("/api/next?count=1"))["pairs"]:
                    choice = self.random.choice(["left", "right", "equal", "incomparable"])
                    self.outbox.append(
                        (str(uuid.UUID(int=self.random.getrandbits(128), version=4)), pair["showing"], choice)
                    )
            for given in list(self.outbox):
                self.sent[given[0]] = given[1:]
                self._post("/api/answer", {"uuid": given[0], "showing": given[1], "choice": given[2], "seconds": 1.0})
                self.acknowledged[given[0]] = given[1:]
                self.outbox.remove(given)
            self.stopped.wait(0.05)

    def _get(self, path: str) -> bytes:
        with self.opener.open(self.home + path, timeout=10) as response:
            content: bytes = response.read()
            return content

    def _post(self, path: str, body: dict[str, Any]) -> None:
        headers = {"content-type": "application/json", "origin": self.home}
        request = urllib.request.Request(self.home + path, json.dumps(body).encode(), headers)
        with self.opener.open(request, timeout=10) as response:
            response.read()


def as_stored(store: "Store", number: int, seen: str) -> tuple[int, "Choice"]:
    """The query that was shown under a number, and what a choice between its sides as they were seen means."""
    from backflip.preferences import Choice

    showing = store.shown(number, "you")
    return showing.query, showing.meant(Choice(seen))


def parts_of(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """Process numbers by part; parts are started in the order page, act, ask, fit."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return {"run": process.pid, **dict(zip(("page", "act", "ask", "fit"), spawned, strict=False))}


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_no_acknowledged_answer_is_lost_or_doubled_by_twenty_kills(tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.settings import Settings
    from backflip.web.security import run_token

    run = start(Settings("cheetah-one-leg", labels=100_000, steps=10**9, checkpoint_steps=2_000), tmp_path / "run")
    port = free_port()
    labeller = Labeller(port, run_token(run))
    labeller.start()
    rng = random.Random(1)
    reached: list[int] = []
    for kill in range(KILLS + 1):
        log = (tmp_path / f"log{kill}").open("w+b")
        command = [sys.executable, "-m", "backflip", "resume", str(run.path), "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        parts = _await_answers(labeller, process, tmp_path / f"log{kill}")
        if kill in (KILLS // 2, KILLS):  # answers come so quickly that most lives end before a checkpoint
            _await_checkpoint(run)
        reached.append(int(run.told("act").get("steps", 0)))
        time.sleep(rng.random() * 1.5)
        if kill == KILLS:
            labeller.stopped.set()
            labeller.join(20)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            log.close()
            break
        victim = PARTS[kill % len(PARTS)]
        os.kill(parts[victim], signal.SIGKILL)
        code = process.wait(60)
        log.close()
        said = (tmp_path / f"log{kill}").read_text()
        assert code != 0
        assert victim == "run" or f"'{victim}' was killed by SIGKILL" in said, said
        deadline = time.monotonic() + 30
        while not all(gone(pid) for pid in parts.values()):
            assert time.monotonic() < deadline, f"after {victim} was killed, others went on"
            time.sleep(0.05)
    with closing(run.store(check=True)) as store:
        stored = Counter(given.uuid for given, _ in store.preferences())
        kept = {given.uuid: (given.query, given.choice) for given, _ in store.preferences()}
        meant = {name: as_stored(store, *given) for name, given in labeller.acknowledged.items()}
    assert len(labeller.acknowledged) > 3 * KILLS
    assert not [name for name in labeller.acknowledged if stored[name] != 1]
    assert all(kept[name] == meant[name] for name in meant)
    assert set(stored) <= set(labeller.sent), "nothing was stored that nobody sent"
    assert run.newest("act") is not None
    assert reached[-1] > reached[len(reached) // 2] > 0, f"the policy went on from where it was: {reached}"
    print(f"{len(stored)} answers kept over {KILLS} kills; policy at {reached}")


def _await_checkpoint(run: "RunDir") -> None:
    """Until the policy has saved another one."""
    before, deadline = run.newest_number("act") or 0, time.monotonic() + 90
    while (run.newest_number("act") or 0) <= before:
        assert time.monotonic() < deadline, f"no checkpoint after {before}"
        time.sleep(0.05)


def _await_answers(labeller: Labeller, process: "subprocess.Popen[bytes]", log: Path) -> dict[str, int]:
    """Until all parts run and a few more answers are in."""
    before = len(labeller.acknowledged)
    deadline = time.monotonic() + 90
    while len(labeller.acknowledged) < before + 4:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no answers came through\n{log.read_text()}"
        time.sleep(0.05)
    with suppress(FileNotFoundError):
        parts = parts_of(process)
        assert set(parts) == set(PARTS), parts
        return parts
    raise AssertionError("the run ended by itself")
