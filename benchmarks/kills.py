"""Whether a run that somebody teaches survives the death of any process of it, and checkpoints that a disk left torn.

    python benchmarks/kills.py [--kills 200] [--minutes 40] [--quick] [--seed 0]

`cheetah-one-leg` trains at once (acting, asking, fitting, the page: a process each) while a robot answers through HTTP.
Again and again one of its processes, or all, is killed with signal 9 at a random instant, also while things start, and
the run is resumed. Before every third resume a file of the newest checkpoint of acting, fitting or r̂ is cut short or
has bytes changed; now and then all checkpoints of one of them are. `lost`, `doubled` and `unseen` count answers, as in
labelling_load.py. `refused`: resumes that ended with a sentence that says what to restore; it is restored then, from a
copy. `failed`: resumes that ended in another way. --quick has 8 kills. The last line is a JSON object of the figures.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from backflip.api import start
from backflip.rundir import RunDir
from backflip.settings import Settings
from labelling_load import checked
from served import Robot, invite_robots
from soak import free_port, processes

ANSWER_SECONDS = 0.25
PATIENCE_SECONDS = 120.0
EARLY = 0.3
"""Share of the kills that come while things start."""
EARLY_SECONDS = 8.0
LATER_SECONDS = 2.0
KINDS = ("act", "fit", "reward")
QUICK = 8


class Answering(threading.Thread):
    """The robot, until it is told to stop; `SystemExit` of it, a refused answer, is kept."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(daemon=True)
        self.robot, self.stopped, self.failure = robot, threading.Event(), ""

    def run(self) -> None:
        """Answer in sittings of a second, each with random numbers of its own."""
        while not self.stopped.is_set() and not self.failure:
            self.robot.seed += 1
            try:
                asyncio.run(self.robot.answer_until(time.monotonic() + 1))
            except SystemExit as error:
                self.failure = str(error)


class Trial:
    """A run that is killed, and what became of it."""

    def __init__(self, folder: Path, run: RunDir, answering: Answering, port: int, rng: random.Random) -> None:
        self.folder, self.run, self.answering, self.port, self.rng = folder, run, answering, port, rng
        self.counts, self.victims, self.damaged = Counter[str](), Counter[str](), Counter[str]()
        self.said: list[str] = []
        self.longest = 0.0

    def resume(self) -> "subprocess.Popen[bytes]":
        """Start it again."""
        command = [sys.executable, "-m", "backflip", "resume", str(self.run.path), "--port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def goes_on(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait for new answers; False if it ended by itself."""
        begun, before = time.monotonic(), len(self.answering.robot.acknowledged)
        while len(self.answering.robot.acknowledged) < before + 2:
            if process.poll() is not None:
                return False
            if self.answering.failure or time.monotonic() > begun + PATIENCE_SECONDS:
                raise SystemExit(f"no answers: {self.answering.failure}\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)
        self.longest = max(self.longest, time.monotonic() - begun)
        return True

    def kill_once(self, process: "subprocess.Popen[bytes]") -> None:
        """End one part, or all of them, and see that nothing is left."""
        parts = processes(process)
        victim = self.rng.choice([*parts, "all"])
        for name, pid in parts.items():
            if victim in (name, "all"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
        self.victims[victim] += 1
        give_up = time.monotonic() + 60
        while any(_alive(pid) for pid in parts.values()):
            if time.monotonic() > give_up:
                raise SystemExit(f"after {victim} was killed, others went on")
            time.sleep(0.05)

    def damage(self, all_of_them: bool) -> None:
        """Tear a file of the newest checkpoint of one kind, or of each; a copy stays for restoring."""
        kind = self.rng.choice([kind for kind in KINDS if self.run.newest_number(kind)] or ["none"])
        folders = sorted(path for path in (self.run.path / kind).glob("[0-9]*") if path.is_dir())
        for folder in folders if all_of_them else folders[-1:]:
            if not (copy := self.folder / "copy" / kind / folder.name).exists():  # else it is torn already
                shutil.copytree(folder, copy)
            file = self.rng.choice(sorted(folder.iterdir()))
            content = bytearray(file.read_bytes())
            if not content:
                continue  # torn before, to nothing
            if self.rng.random() < 0.5:
                file.write_bytes(content[: self.rng.randrange(len(content))])
                self.damaged["truncated"] += 1
            else:
                for _ in range(3):
                    content[self.rng.randrange(len(content))] ^= 1 + self.rng.randrange(255)
                file.write_bytes(content)
                self.damaged["changed"] += 1

    def restore(self) -> None:
        """Put back what was torn, as the sentence says."""
        for folder in (self.folder / "copy").glob("*/*"):
            place = self.run.path / folder.parent.name / folder.name
            if place.exists():
                shutil.rmtree(place)
                shutil.copytree(folder, place)

    def ended_by_itself(self) -> None:
        """Whether it said what to restore."""
        said = (self.folder / "log").read_text()
        good = "Traceback" not in said and "restore" in said
        self.counts["refused" if good else "failed"] += 1
        self.said.append(said.strip().splitlines()[-1] if good else said[-1500:])
        print(self.said[-1], flush=True)
        self.restore()

    def turn(self) -> None:
        """Resume it, perhaps from torn files, and kill it."""
        if self.rng.random() < 1 / 3:
            self.damage(all_of_them=self.rng.random() < 0.2)
        process = self.resume()
        self.counts["resumed"] += 1
        if self.rng.random() < EARLY:
            time.sleep(EARLY_SECONDS * self.rng.random())
            if process.poll() is not None:
                self.ended_by_itself()
                return
        elif not self.goes_on(process):
            self.ended_by_itself()
            return
        else:
            time.sleep(LATER_SECONDS * self.rng.random())
        self.kill_once(process)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def torture(folder: Path, kills: int, minutes: float, seed: int) -> dict[str, Any]:
    """So many kills, or as many as there is time for; then a whole life, and a look at the store."""
    settings = Settings("cheetah-one-leg", labels=100_000, steps=10**9, checkpoint_steps=5_000)
    run, port, begun = start(settings, folder / "run"), free_port(), time.monotonic()
    with closing(run.store()) as store:
        (robot,) = invite_robots(run, store, f"http://127.0.0.1:{port}", 1, ANSWER_SECONDS)
    answering = Answering(robot)
    answering.start()
    trial = Trial(folder, run, answering, port, random.Random(seed))
    while sum(trial.victims.values()) < kills and time.monotonic() < begun + 60 * minutes:
        trial.turn()
        print(f"{sum(trial.victims.values())} kills, {len(robot.acknowledged)} answers", flush=True)
    trial.restore()  # the last life is to end cleanly
    process = trial.resume()
    if not trial.goes_on(process):
        raise SystemExit(f"it did not go on:\n{(folder / 'log').read_text()}")
    answering.stopped.set()
    answering.join(60)
    steps = int(run.told("act").get("steps", 0))
    process.send_signal(signal.SIGINT)
    code = process.wait(PATIENCE_SECONDS)
    if code:
        print((folder / "log").read_text()[-3000:], flush=True)
    with closing(run.store(check=True)) as store:
        found = checked(store, [robot])
    return {
        "kills": sum(trial.victims.values()),
        "victims": dict(trial.victims),
        **found,
        "resumed": trial.counts["resumed"] + 1,
        "refused": trial.counts["refused"],
        "failed": trial.counts["failed"],
        "torn": dict(trial.damaged),
        "longest_to_new_answers_s": round(trial.longest, 1),
        "policy_steps": steps,
        "exit_code": code,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """The kills, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=40.0, help="after so long it ends with fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills, in less than two minutes")
    options = parser.parse_args()
    kills, minutes = (QUICK, 1.5) if options.quick else (options.kills, options.minutes)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(torture(Path(folder), kills, minutes, options.seed)))


if __name__ == "__main__":
    main()
