"""Whether people have to wait for pairs: how many a run draws a second while it trains, and how many lie ready.

    python benchmarks/pair_supply.py [--minutes 3] [--quick]

`hopper-backflip` trains at once, as `backflip resume` runs it. First a robot answers as fast as pairs come (as often as
the page's limit for one annotator allows, five a second): `pairs_per_second` is what it got, at least 0.5 are wanted.
Then, when the run has had time to fill up, robots answer every second and every two seconds: `ready` is the mean of
drawn pairs that nobody holds, looked at twice a second, at least 20 are wanted; `waiting` is the share of the time in
which it was time to answer and there was no pair, less than .01 is wanted. With --quick the first two for 15 seconds.
The last line is a JSON object of the figures.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from backflip.api import start
from backflip.experiments import settings_for
from backflip.open_queries import free
from backflip.rundir import RunDir
from backflip.schema import query
from backflip.store import Store
from served import Robot, invite_robots
from soak import free_port

PACES = (0.2, 1.0, 2.0)
"""Seconds between two answers."""
FILL_SECONDS = 60.0
"""So long it may take until enough lie ready, before the next pace; a third of it with --quick."""
ENOUGH = 20
LOOK_SECONDS = 0.5
START_SECONDS = 120.0


def ready(store: Store) -> int:
    """Drawn pairs that nobody holds."""
    with store.reading() as c:
        count = sa.select(sa.func.count()).select_from(query).where(free(store.clock()), query.c.drawn)
        return int(c.execute(count).scalar_one())


class Waits(threading.Thread):
    """How many pairs lie ready while a robot answers, and how long it has been without one."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self.store, self.found, self.stopped = store, list[int](), threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self.stopped.wait(LOOK_SECONDS):
            self.found.append(ready(self.store))


def measure(run: RunDir, store: Store, robot: Robot, seconds: float, fill_seconds: float) -> dict[str, Any]:
    """One robot at one pace."""
    filled = time.monotonic()
    while ready(store) < ENOUGH and time.monotonic() < filled + fill_seconds:
        time.sleep(LOOK_SECONDS)
    filled_after = time.monotonic() - filled
    waits = Waits(store)
    waits.start()
    steps, begun = int(run.told("act")["steps"]), time.monotonic()
    asyncio.run(robot.answer_until(begun + seconds))
    took = time.monotonic() - begun
    waits.stopped.set()
    waits.join()
    answers = len(robot.acknowledged)
    return {
        "answer_every_s": robot.seconds,
        "seconds": round(took),
        "filled_after_s": round(filled_after, 1),
        "pairs_per_second": round(answers / took, 2),
        "ready": round(float(np.mean(waits.found)), 1),
        "ready_least": min(waits.found),
        # A robot without a pair tries again when the next answer is due.
        "waiting": round(robot.starved * robot.seconds / took, 3),
        "steps_per_second": round((int(run.told("act")["steps"]) - steps) / took),
    }


def supply(folder: Path, seconds: float, quick: bool) -> dict[str, Any]:
    """Train, answer at every pace, end it."""
    run = start(replace(settings_for("hopper-backflip"), labels=10**6, seed=0, steps=10**9), folder / "run")
    port = free_port()
    command = [sys.executable, "-m", "backflip", "resume", str(run.path), "--port", str(port)]
    with (folder / "log").open("wb") as log, closing(run.store()) as store:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            robots = invite_robots(run, store, f"http://127.0.0.1:{port}", len(PACES) + 1, 0.2)
            _await_reward(run, robots.pop(), process)
            found = []
            for robot, pace in zip(robots, PACES[:2] if quick else PACES, strict=False):
                robot.seconds = pace
                found.append(measure(run, store, robot, seconds, FILL_SECONDS / 3 if quick else FILL_SECONDS))
                print(json.dumps(found[-1]), flush=True)
            process.send_signal(signal.SIGINT)
            process.wait(120)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return {
        "pairs_per_second": found[0]["pairs_per_second"],
        "ready": found[1]["ready"],
        "waiting": found[1]["waiting"],
        "paces": found,
        "load_average": round(os.getloadavg()[0], 1),
    }


def _await_reward(run: RunDir, robot: Robot, process: "subprocess.Popen[bytes]") -> None:
    """Answer until the policy trains on a first r̂."""
    give_up = time.monotonic() + START_SECONDS
    while run.newest_number("reward") is None or not run.told("act").get("reward_version"):
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit("no r̂ came")
        robot.seed += 1
        asyncio.run(robot.answer_until(time.monotonic() + 2))


def main() -> None:
    """The figures by pace, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="at each pace")
    parser.add_argument("--quick", action="store_true", help="15 seconds at two paces")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(supply(Path(folder), 15.0 if options.quick else 60 * options.minutes, options.quick)))


if __name__ == "__main__":
    main()
