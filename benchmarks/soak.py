"""Whether a run that people teach stays as large as it is: memory of each process, and the run directory, over an hour.

    python benchmarks/soak.py [--minutes 60] [--quick] [--disk-megabytes 1000] [--seconds-per-answer 4] [--keep FOLDER]

`hopper-backflip` trains at once (acting, asking, fitting, the page: a process each), as `backflip resume` runs it, and
a robot answers through HTTP as the page does: it fetches pairs and their clips, waits, and sends a choice at random.
Every ten seconds the resident memory of each process and the bytes of the run directory are taken. Growth is from the
mean of the first three samples after the settling time (ten minutes; with --quick, two minutes in all, half a minute)
to the mean of the last three. The last line is a JSON object of the figures.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import replace
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np

from backflip.api import start
from backflip.experiments import settings_for
from backflip.rundir import RunDir
from backflip.web.security import run_token

SAMPLE_SECONDS = 10.0
START_SECONDS = 300.0
SETTLED = 3
"""Samples that are averaged at either end."""
PARTS = ("page", "act", "ask", "fit")
"""In the order in which they are started."""


class Robot(threading.Thread):
    """Answers what it is shown, one pair after the other, and sends an answer again until it is acknowledged."""

    def __init__(self, port: int, token: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self.home, self.token, self.seconds = f"http://127.0.0.1:{port}", token, seconds
        self.acknowledged: list[str] = []
        self.errors = Counter[str]()
        self.stopped = threading.Event()
        self.random = random.Random(0)
        self.visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def run(self) -> None:
        """Come again whenever something goes wrong, as a page does."""
        waiting: dict[str, Any] | None = None
        while not self.stopped.is_set():
            try:
                self._ask("/label?token=" + self.token)
                while not self.stopped.is_set():
                    waiting = waiting or self._choose()
                    if waiting is not None:
                        self._ask("/api/answer", waiting)
                        self.acknowledged.append(waiting["uuid"])
                        waiting = None
            except OSError as error:
                self.errors[type(error).__name__] += 1
                self.stopped.wait(0.5)

    def _choose(self) -> dict[str, Any] | None:
        for pair in json.loads(self._ask("/api/next?count=1"))["pairs"]:
            for side in ("left", "right"):
                self._ask(pair[side]["url"])
            self.stopped.wait(self.seconds)
            choice = self.random.choice(["left", "right", "left", "right", "equal", "incomparable"])
            made = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
            return {"uuid": made, "showing": pair["showing"], "choice": choice, "seconds": self.seconds}
        self.stopped.wait(0.5)
        return None

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {"content-type": "application/json", "origin": self.home} if body else {}
        content = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.home + path, content, headers)
        with self.visitor.open(request, timeout=60) as response:
            answer: bytes = response.read()
            return answer


def processes(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """Process numbers by part, once all have been started; else too few."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return {"run": process.pid, **dict(zip(PARTS, spawned, strict=False))}


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kilobytes) / 1024


def megabytes(path: Path) -> float:
    """Bytes of all files below a folder, in millions."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total / 1e6


def sampled(run: RunDir, process: "subprocess.Popen[bytes]", seconds: float) -> dict[str, list[float]]:
    """Memory by part, `disk` in all and by kind, and the `seconds` at which they were taken."""
    found: dict[str, list[float]] = {}
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        assert process.poll() is None, f"the run ended with {process.returncode}"
        row = {part: resident_megabytes(pid) for part, pid in processes(process).items()}
        row |= {"disk": megabytes(run.path), "seconds": passed}
        for kind in ("clips", "act"):
            row[f"disk/{kind}"] = megabytes(run.path / kind)
        row["disk/run.db"] = sum(file.stat().st_size for file in run.path.glob("run.db*")) / 1e6
        for name, value in row.items():
            found.setdefault(name, []).append(value)
        print(
            f"{passed:6.0f} s  "
            + "  ".join(f"{name} {value:.0f}" for name, value in row.items() if name != "seconds")
            + f"  steps {run.told('act').get('steps', 0)}",
            flush=True,
        )
        time.sleep(SAMPLE_SECONDS)
    return found


def growth(samples: dict[str, list[float]], name: str, settle_seconds: float) -> dict[str, float]:
    """From the first samples after settling to the last."""
    later = [value for value, at in zip(samples[name], samples["seconds"], strict=True) if at >= settle_seconds]
    settled, end = float(np.mean(later[:SETTLED])), float(np.mean(later[-SETTLED:]))
    percent = 100 * (end - settled) / settled
    return {"settled_mb": round(settled, 1), "end_mb": round(end, 1), "growth_percent": round(percent, 2)}


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def soak(folder: Path, minutes: float, settle_seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Let it run, look, end it, and see that every answer is there."""
    settings = replace(
        settings_for("hopper-backflip"), labels=10**6, seed=0, disk_megabytes=options.disk_megabytes, steps=10**9
    )
    run = start(settings, folder / "run")
    port, token = free_port(), run_token(run)
    robot = Robot(port, token, options.seconds_per_answer)
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "backflip", "resume", str(run.path), "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            give_up = time.monotonic() + START_SECONDS
            robot.start()
            while run.newest_number("reward") is None:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up, "no r̂ after five minutes"
                time.sleep(0.5)
            before = int(run.told("act")["steps"])
            samples = sampled(run, process, 60 * minutes)
            steps = int(run.told("act")["steps"]) - before
            robot.stopped.set()
            robot.join(60)
            process.send_signal(signal.SIGINT)
            code = process.wait(120)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    with closing(run.store(check=True)) as store:
        stored = Counter(given.uuid for given, _ in store.preferences())
    return {
        "minutes": minutes,
        "settle_seconds": settle_seconds,
        "memory": {name: growth(samples, name, settle_seconds) for name in ("run", *PARTS)},
        "most_growth_percent": max(growth(samples, name, settle_seconds)["growth_percent"] for name in ("run", *PARTS)),
        "disk": growth(samples, "disk", settle_seconds),
        "disk_most_mb": round(max(samples["disk"]), 1),
        "disk_bound_mb": options.disk_megabytes,
        "disk_parts_end_mb": {name[5:]: round(samples[name][-1], 1) for name in samples if name.startswith("disk/")},
        "answers": len(robot.acknowledged),
        "lost": sum(stored[name] == 0 for name in robot.acknowledged),
        "doubled": sum(count > 1 for count in stored.values()),
        "robot_errors": dict(robot.errors),
        "policy_steps": steps,
        "exit_code": code,
    }


def main() -> None:
    """The samples, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="two minutes, of which half a minute to settle")
    parser.add_argument("--disk-megabytes", type=int, default=1000, help="the run directory's bound")
    parser.add_argument("--seconds-per-answer", type=float, default=4.0)
    parser.add_argument("--keep", type=Path, help="where to leave the run directory; by default it goes away")
    options = parser.parse_args()
    minutes, settle = (2.0, 30.0) if options.quick else (options.minutes, 600.0)
    if options.keep:
        options.keep.mkdir(parents=True)
        print(json.dumps(soak(options.keep, minutes, settle, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), minutes, settle, options)))


if __name__ == "__main__":
    main()
