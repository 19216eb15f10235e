"""How soon does a click count? Seconds from an answer on the page to the first batch paid by an r̂ that knows it.

    python benchmarks/lm_click.py [--model smollm2] [--answers 30] [--seconds 5] [--pictures FOLDER]
    python benchmarks/lm_click.py --quick                 # the model `tiny`, eight answers

The real command tunes a model on the task sentiment, at once; in Debian's Chromium, headless, two completions are read
for `--seconds` and the one that VADER likes better is chosen by key. `to_reward`: from the acknowledged answer to the
published r̂ that knows it. `to_batch`: to the first batch of completions that such an r̂ has paid; answers before the
first r̂, a fifth of them, are not counted. smollm2 has to be there (`backflip fetch smollm2`).
The last line is a JSON object.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from playwright.sync_api import Error, Page, sync_playwright

from backflip.lm.tasks import sentiment
from backflip.rundir import RunDir
from backflip.schema import CHOICES, event
from backflip.texts import Text

CHROMIUM = "/usr/bin/chromium"
PATIENCE_SECONDS = 300.0
LOOK_SECONDS = 0.05


class Watch:
    """When which r̂ was published and first paid a batch."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.published: list[tuple[int, int, float]] = []
        """(the last event that it knows, number, when)"""
        self.paid: list[tuple[int, float]] = []
        """(number, when)"""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            fit, act, now = self.run.told("fit"), self.run.told("act"), time.monotonic()
            if fit.get("version") and (not self.published or self.published[-1][1] != fit["version"]):
                self.published.append((int(fit["last_event"]), int(fit["version"]), now))
            if act.get("reward_version") and (not self.paid or self.paid[-1][0] != act["reward_version"]):
                self.paid.append((int(act["reward_version"]), now))

    def after(self, number: int, answered: float) -> tuple[float, float] | None:
        """Seconds from an answer to its r̂ and to its batch; None while there are none."""
        known = bisect_left(self.published, (number,))
        if known == len(self.published):
            return None
        _, version, when = self.published[known]
        used = bisect_left(self.paid, (version,))
        return None if used == len(self.paid) else (when - answered, self.paid[used][1] - answered)


@contextmanager
def trained(model: str, labels: int, run: Path) -> Iterator[str]:
    """The command at work; its link."""
    train = ["train", "sentiment", "--model", model, "--labels", str(labels), "--run", str(run), "--no-browser"]
    command = [sys.executable, "-m", "backflip", *train]
    log = run.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            give_up = time.monotonic() + PATIENCE_SECONDS
            while (found := re.search(r"http://\S+/label\?token=\S+", log.read_text())) is None:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"no link was printed:\n{log.read_text()}")
                time.sleep(0.1)
            yield found.group()
            process.send_signal(signal.SIGINT)
            process.wait(120)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise SystemExit(log.read_text())


def opened(page: Page, link: str) -> None:
    """The page, as soon as its server is there."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            page.goto(link)
            break
        except Error:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.3)
    page.click("#guide-start", timeout=PATIENCE_SECONDS * 1000)


def answered(page: Page, run: RunDir, seconds: float) -> tuple[int, float]:
    """Read two texts, choose one; the answer's event, and when it was acknowledged."""
    page.wait_for_selector('body[data-state="showing"]', timeout=PATIENCE_SECONDS * 1000)
    page.wait_for_timeout(1000 * seconds)
    left, right = sentiment([Text("", page.inner_text(f"#{side}-clip .passage")) for side in ("left", "right")])
    with closing(run.store()) as store:
        before = newest(store)
        page.keyboard.press("ArrowUp" if left == right else "ArrowLeft" if left > right else "ArrowRight")
        give_up = time.monotonic() + PATIENCE_SECONDS
        while (number := newest(store)) == before:
            if time.monotonic() > give_up:
                raise SystemExit("an answer never arrived")
            time.sleep(0.01)
    return number, time.monotonic()


def newest(store: Any) -> int:
    """The number of the newest answer; 0 before the first."""
    with store.transaction() as connection:
        return connection.scalar(sa.select(sa.func.max(event.c.seq)).where(event.c.kind.in_(CHOICES))) or 0


def main() -> None:
    """Answer so many; a line of figures for each, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=5.0, help="of reading before each answer")
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots of both pages")
    parser.add_argument("--quick", action="store_true", help="the model tiny, few answers")
    options = parser.parse_args()
    if options.quick:
        options.model, options.answers, options.seconds = "tiny", 8, 1.0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "run"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with trained(options.model, options.answers, path) as link:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            opened(page, link)
            run = RunDir.open(path)
            with Watch(run) as watch:
                given = [answered(page, run, options.seconds) for _ in range(options.answers - 1)]
                if options.pictures:
                    page.wait_for_selector('body[data-state="showing"]', timeout=PATIENCE_SECONDS * 1000)
                    page.screenshot(path=options.pictures / "text.png")
                given.append(answered(page, run, options.seconds))
                give_up = time.monotonic() + PATIENCE_SECONDS
                while any(watch.after(*one) is None for one in given) and time.monotonic() < give_up:
                    time.sleep(0.2)
            if options.pictures:
                page.goto(link.replace("/label", "/run"))
                page.wait_for_timeout(3000)
                page.screenshot(path=options.pictures / "text_run.png", full_page=True)
            steps = run.told("act")["steps"]
        browser.close()
    if not watch.paid:
        raise SystemExit(f"no batch was paid by an r̂ within {PATIENCE_SECONDS:.0f} s of the last answer")
    delays = [found for one in given if (found := watch.after(*one))]
    trained_on = delays[next((i for i, (_, when) in enumerate(given) if watch.published[0][2] <= when), 0) :]
    rewards, batches = (sorted(column) for column in zip(*trained_on, strict=True))
    figures = {
        "model": options.model,
        "answers": len(given),
        "never_paid": len(given) - len(delays),
        "completions": steps,
        "to_reward_p50": round(statistics.median(rewards), 2),
        "to_batch_p50": round(statistics.median(batches), 2),
        "to_batch_p90": round(batches[int(0.9 * (len(batches) - 1))], 2),
        "to_batch_worst": round(batches[-1], 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    for name, value in figures.items():
        print(f"{name:16} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
