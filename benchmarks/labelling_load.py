"""How many people the labelling page's server can hear, and whether it loses or doubles an answer of theirs.

    python benchmarks/labelling_load.py [--robots 20] [--seconds 3] [--minutes 2] [--quick]
    python benchmarks/labelling_load.py --limit [--database postgresql]
    python benchmarks/labelling_load.py --kill [--minutes 10] [--trainer]

Robots with an invitation each answer a pair every so many seconds, as the page does, against a real server on a store
full of drawn pairs. `ack_ms_p95`: from sending an answer to its acknowledgement, by when it is on the disk. `lost`:
acknowledged answers that the store does not have as they were meant. `doubled`: answers that it has twice, and pairs
that were given to two although nobody asked for that. `unseen`: answers to pairs that their annotator was not shown.

`--limit` goes through 20, 40, 80 and 160 robots at an answer a second each. `--kill` has one robot at an answer a
second, and kills the server (-9) three times on the way; with `--trainer`, a policy trains meanwhile, and the pairs are
those that it asks for. `--database postgresql` starts a server of its own. The last line is a JSON object of the
figures.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from backflip.preferences import Choice
from backflip.rundir import RunDir
from backflip.schema import CHOICES, LABEL, event, query, showing
from backflip.store import Store
from served import HELD, Robot, Served, database, invite_robots, make_run, supply

LIMIT = (20, 40, 80, 160)
"""Robots at an answer a second each, to find what the server can take."""
KILLS = 3
TRAINED = "cheetah-one-leg"


def checked(store: Store, robots: list[Robot]) -> dict[str, int]:
    """What became of the robots' answers."""
    names = [robot.name for robot in robots]
    with store.reading() as c:
        theirs = event.c.kind.in_(CHOICES) & event.c.teacher.in_(names)
        rows = c.execute(sa.select(event.c.uuid, event.c.query, event.c.kind, event.c.teacher).where(theirs)).all()
        shown = {row.id: row for row in c.execute(sa.select(showing))}
        once = set(c.execute(sa.select(query.c.id).where(query.c.wanted == 1)).scalars())
    stored = {row.uuid: row for row in rows}
    lost = unseen = 0
    for robot in robots:
        for name in robot.acknowledged:
            number, seen = robot.sent[name]
            lent, kept = shown[number], stored.get(name)
            meant = Choice(seen).value if not lent.flipped else _mirrored(seen)
            lost += kept is None or (kept.query, kept.kind, kept.teacher) != (lent.query, meant, robot.name)
            unseen += number not in robot.shown
    labels = [row for row in shown.values() if row.purpose == LABEL and row.query in once]
    holders = Counter(number for number, _ in {(row.query, row.annotator) for row in labels})
    return {
        "answers": len(rows),
        "lost": lost,
        "doubled": sum(n > 1 for n in holders.values()) + len(rows) - len(stored),
        "unseen": unseen + len(set(stored) - {name for robot in robots for name in robot.sent}),
        "shown_again_to_measure": sum(row.purpose != LABEL for row in shown.values()),
    }


def _mirrored(seen: str) -> str:
    return {"left": "right", "right": "left"}.get(seen, seen)


def load(kind: str, url: str | None, count: int, seconds: float, minutes: float) -> dict[str, Any]:
    """Robots answer for so many minutes."""
    with tempfile.TemporaryDirectory() as folder, database(kind, url) as address:
        run = make_run(Path(folder) / "run", address)
        with closing(run.store()) as store:
            supply(run, store, int(count * (HELD + 1.1 * 60 * minutes / seconds)) + 10)
            with Served(run, Path(folder) / "log") as page:
                robots = invite_robots(run, store, page.home, count, seconds)
                before, begun = page.processor_seconds, time.monotonic()
                asyncio.run(_all(robots, begun + 60 * minutes))
                took = time.monotonic() - begun
                busy = (page.processor_seconds - before) / took
            found = checked(store, robots)
    wanted = count * 60 * minutes / seconds
    return {
        "database": kind,
        "robots": count,
        "seconds": seconds,
        "minutes": round(took / 60, 2),
        **found,
        "answers_of_wanted": round(found["answers"] / wanted, 3),
        **_times(robots),
        "server_cores": round(busy, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


async def _all(robots: list[Robot], end: float) -> None:
    await asyncio.gather(*(robot.answer_until(end) for robot in robots))


def _times(robots: list[Robot]) -> dict[str, Any]:
    ack = [ms for robot in robots for ms in robot.ack_ms] or [float("nan")]
    more = [ms for robot in robots for ms in robot.next_ms] or [float("nan")]
    return {
        "ack_ms_p50": round(float(np.percentile(ack, 50)), 1),
        "ack_ms_p95": round(float(np.percentile(ack, 95)), 1),
        "ack_ms_max": round(max(ack), 1),
        "next_ms_p95": round(float(np.percentile(more, 95)), 1),
        "errors": sum(robot.errors for robot in robots),
        "starved": sum(robot.starved for robot in robots),
    }


def kill(kind: str, url: str | None, minutes: float, trainer: bool) -> dict[str, Any]:
    """One robot at an answer a second, while the server is killed three times."""
    with tempfile.TemporaryDirectory() as folder, database(kind, url) as address:
        path = Path(folder) / "run"
        made = _training(path, address) if trainer else _supplied(path, address, int(70 * minutes))
        with made as run, closing(run.store()) as store, Served(run, Path(folder) / "log") as page:
            (robot,) = invite_robots(run, store, page.home, 1, 1.0)
            asyncio.run(_with_kills(robot, page, 60 * minutes))
            found = checked(store, [robot])
    return {
        "database": kind,
        "minutes": minutes,
        "kills": KILLS,
        "trainer": trainer,
        **found,
        "acknowledged": len(robot.acknowledged),
        "sent": len(robot.sent),
        **_times([robot]),
        "load_average": round(os.getloadavg()[0], 1),
    }


async def _with_kills(robot: Robot, page: Served, seconds: float) -> None:
    begun, rng = time.monotonic(), random.Random(0)
    answering = asyncio.ensure_future(robot.answer_until(begun + seconds))
    for i in range(KILLS):
        moment = begun + seconds * (i + 0.25 + 0.5 * rng.random()) / KILLS
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        await asyncio.to_thread(page.kill)
        print(f"killed after {time.monotonic() - begun:.0f} s, {len(robot.acknowledged)} answers", flush=True)
    await answering


@contextmanager
def _supplied(path: Path, address: str | None, pairs: int) -> Iterator[RunDir]:
    run = make_run(path, address)
    with closing(run.store()) as store:
        supply(run, store, pairs)
    yield run


@contextmanager
def _training(path: Path, address: str | None) -> Iterator[RunDir]:
    """A run whose policy trains and whose pairs are drawn as they are asked for."""
    given = ["--run", str(path), "--no-browser", "--labels", "100000"] + (["--store", address] if address else [])
    command = [sys.executable, "-m", "backflip", "train", TRAINED, *given]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not (path / "token").is_file():
            if process.poll() is not None:
                raise SystemExit("the trainer ended")
            time.sleep(0.2)
        yield RunDir.open(path)
        if process.poll() is not None:
            raise SystemExit("the trainer ended on the way")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def main() -> None:
    """The figures, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0, help="between two answers of one robot")
    parser.add_argument("--minutes", type=float, help="by default 2; 0.5 a step of --limit; 10 with --kill")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--url", help="an empty PostgreSQL database, instead of a server of its own")
    parser.add_argument("--limit", action="store_true", help="find how many robots are too many")
    parser.add_argument("--kill", action="store_true", help="kill the server on the way")
    parser.add_argument("--trainer", action="store_true", help="with --kill: while a policy trains")
    parser.add_argument("--quick", action="store_true", help="half a minute")
    options = parser.parse_args()
    kind, url, minutes = options.database, options.url, 0.5 if options.quick else options.minutes
    if options.kill:
        print(json.dumps(kill(kind, url, minutes or 10, options.trainer)))
    elif options.limit:
        steps = []
        for count in LIMIT:
            steps.append(load(kind, url, count, 1.0, minutes or 0.5))
            print(json.dumps(steps[-1]), flush=True)
        held = [step["robots"] for step in steps if step["ack_ms_p95"] <= 100 and step["answers_of_wanted"] > 0.95]
        print(json.dumps({"database": kind, "most_robots": max(held, default=0), "steps": steps}))
    else:
        print(json.dumps(load(kind, url, options.robots, options.seconds, minutes or 2)))


if __name__ == "__main__":
    main()
