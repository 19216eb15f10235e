"""The pictures of docs/labelling.md and docs/run_page.md: both pages of a Hopper that is being taught, and a phone.

    python benchmarks/pictures.py [--answers 60] [--pace 2] [--into docs/pictures] [--quick]

The demo begins, so many pairs are answered by key in Debian's Chromium, as the task's script judges the two clips,
and what is then on the screen is the picture. With --quick a dozen answers, and the pictures go nowhere.
"""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import Browser, Error, Page, sync_playwright

from backflip.envs import find_task
from backflip.envs.facts import facts
from backflip.rundir import RunDir
from backflip.schema import query, showing

CHROMIUM = "/usr/bin/chromium"
COLOURS = 256
"""Of a picture; more would not be seen, and make it several times as large."""
START_SECONDS = 120.0
PATIENCE_MS = 600_000
LOOK_MS = 600
PAGE_MS = 3000
"""For the run page to fetch and draw what it shows."""
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 780}


@contextmanager
def training(path: Path, log: Path) -> Iterator[str]:
    """A run that waits for its teacher, and the link to its page."""
    with log.open("w") as said:
        command = [sys.executable, "-m", "backflip", "demo", "--run", str(path), "--no-browser"]
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            give_up = time.monotonic() + START_SECONDS
            while (found := re.search(r"http://\S+/label\?token=\S+", log.read_text())) is None:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"no page came:\n{log.read_text()}")
                time.sleep(0.1)
            yield found.group()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def opened(browser: Browser, link: str, **options: Any) -> Page:
    """The page behind a link that may not be served yet."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            page.goto(link)
        except Error:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.3)
        else:
            return page


def wait_to_answer(page: Page) -> None:
    """Until a pair has been on the screen for long enough to be answered."""
    page.wait_for_selector("body[data-state=showing]")
    script = """(ms) => performance.getEntriesByName("shown").some(({ detail, startTime }) =>
      String(detail) === document.body.dataset.showing && performance.now() - startTime > ms)"""
    page.wait_for_function(script, arg=LOOK_MS)


def key(run: RunDir, showing_id: int) -> str:
    """What the task's script would press for the pair on the screen."""
    task = find_task("hopper-backflip")
    assert task.script is not None
    with closing(run.store(check=False)) as store:
        with store.reading() as c:
            shown = sa.select(query.c.left, query.c.right, showing.c.flipped).join(query, query.c.id == showing.c.query)
            left, right, flipped = c.execute(shown.where(showing.c.id == showing_id)).one()
        pair = store.segments([right, left] if flipped else [left, right], states=True)
    scores = [
        task.script(states[:length], seen[:length], facts(task).steps_per_second)
        for states, seen, length in zip(pair.states, pair.observations, pair.lengths, strict=True)
    ]
    if abs(scores[0] - scores[1]) < task.script_margin:
        return "ArrowUp"
    return "ArrowLeft" if scores[0] > scores[1] else "ArrowRight"


def picture(page: Page, file: Path) -> None:
    """What is on the screen, as a small file."""
    page.wait_for_timeout(900)
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    whole.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file} {os.path.getsize(file) / 1000:.0f} kB", flush=True)


def draw(browser: Browser, link: str, run: RunDir, answers: int, pace: float, into: Path) -> None:
    """Teach for a while, and take the pictures."""
    desk = opened(browser, link, viewport=DESK)
    desk.wait_for_selector("body[data-state=showing]")
    picture(desk, into / "label-guide.png")
    desk.click("#guide-practice")
    desk.wait_for_function("() => document.getElementById('practice-title').textContent.includes('of')")
    for _ in range(2):
        desk.wait_for_timeout(LOOK_MS)
        desk.keyboard.press("ArrowLeft")
        desk.keyboard.press("Enter")
    desk.wait_for_timeout(LOOK_MS + 200)
    desk.keyboard.press("ArrowLeft")
    picture(desk, into / "label-practice.png")
    desk.click("#practice-leave")
    for _ in range(answers):
        wait_to_answer(desk)
        desk.wait_for_timeout(1000 * pace)
        desk.keyboard.press(key(run, int(desk.evaluate("document.body.dataset.showing"))))
    desk.wait_for_function("() => document.getElementById('ready').textContent.startsWith('3 pairs')")
    picture(desk, into / "label.png")
    phone = opened(browser, link, viewport=PHONE, has_touch=True, is_mobile=True)
    phone.click("#guide-start")
    wait_to_answer(phone)
    picture(phone, into / "label-phone.png")
    look = desk.context.new_page()
    look.goto(link.split("/label")[0] + "/run")
    look.wait_for_timeout(PAGE_MS)
    picture(look, into / "run.png")
    look.click("#tab-pairs")
    look.wait_for_timeout(PAGE_MS)
    picture(look, into / "run_pairs.png")


def main() -> None:
    """Teach, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds more to look at each pair")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures")
    parser.add_argument("--quick", action="store_true", help="a dozen answers, and the pictures are thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) if options.quick else options.into
        with training(Path(folder) / "run", Path(folder) / "log") as link, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            run = RunDir.open(Path(folder) / "run")
            draw(browser, link, run, 12 if options.quick else options.answers, options.pace, into)
            browser.close()


if __name__ == "__main__":
    main()
