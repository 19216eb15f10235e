"""What a pair of clips costs: making it ready, sending it, and showing it; poses that the browser draws against sheets.

    python benchmarks/clips.py [--answers 100] [--quick]

Both kinds in one sitting, of the same behaviour of a Hopper: processor seconds of the run for a pair, bytes of it, and
as in `page.py` the time from a key to the next pair on the screen, with nothing else to do and with a busy process on
each core; further how many pictures a second the left canvas shows, in the first round of a pair and later. The browser
is Debian's Chromium, headless: without a graphics card, so that a processor draws, which is the worst case for poses.
The last line is a JSON object of the figures.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from backflip.envs.clips import draw_segment, save_clip
from backflip.envs.poses import pose_segment, save_posed
from backflip.rundir import RunDir
from backflip.web.security import run_token
from page import CHROMIUM, CONDITIONS, SPARE, TASK, behaviour, draw, guide_read, measure, supplied
from served import Served

MADE = 12
"""Clips that are made to see what that costs."""
COUNTER = """
window.pictures = [];
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...what) {
  draw.apply(this, what);
  if (this.canvas.id === "left") pictures.push(performance.now());
};
"""
LATER_MS = 4000
"""After two rounds, when a browser without a graphics card has drawn what there is."""
WATCHED_MS = 1500
"""For so long pictures are counted: one round."""


def cost(directory: Path, clips: str) -> dict[str, float]:
    """Processor seconds and bytes of a pair."""
    parts = behaviour(MADE)
    names = set()
    begun = 0.0
    for number, part in enumerate([parts[0], *parts]):
        if number == 1:  # the first one has loaded the model
            begun = time.process_time()
        posed = pose_segment(TASK, part, len(part)) if clips == "poses" else None
        if posed is None:
            names.add(save_clip(directory, draw_segment(TASK, part, len(part))))
        else:
            names.add(save_posed(directory, posed))
    seconds = time.process_time() - begun
    size = sum(file.stat().st_size for name in names for file in directory.glob(f"{name}.*"))
    return {"cpu_seconds_a_pair": round(2 * seconds / MADE, 4), "bytes_a_pair": round(2 * size / MADE)}


def pace(browser: Browser, run: RunDir, log: Path) -> dict[str, float]:
    """Pictures a second on the left canvas, in a pair's first round and after some."""
    with Served(run, log) as server:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_init_script(COUNTER + f"localStorage.setItem('{guide_read(run)}', '0');")
        page = context.new_page()
        page.goto(f"{server.home}/label?token={run_token(run)}")
        page.wait_for_function("() => document.body.dataset.state === 'showing' && pictures.length > 2")
        looked = [page.evaluate("[pictures.length, performance.now()]")]
        for wait in (WATCHED_MS, LATER_MS, WATCHED_MS):
            page.wait_for_timeout(wait)
            looked.append(page.evaluate("[pictures.length, performance.now()]"))
        context.close()
    first, _, later = (1000 * (then - now) / (end - begin) for (now, begin), (then, end) in itertools.pairwise(looked))
    return {"pictures_a_second_at_first": round(first, 1), "pictures_a_second_later": round(later, 1)}


def main() -> None:
    """Both kinds, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="eight answers each")
    options = parser.parse_args()
    answers = 8 if options.quick else options.answers
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for clips in ("sheets", "poses"):
            made, shown = Path(folder) / f"{clips}-made", Path(folder) / clips
            made.mkdir()
            shown.mkdir()
            found[clips] = dict(cost(made, clips))
            names = draw(shown, 2 * (answers + SPARE), clips)
            run = supplied(Path(folder) / f"{clips}-pace", shown, names)
            found[clips] |= pace(browser, run, Path(folder) / f"{clips}-log")
            for condition in (CONDITIONS[0], CONDITIONS[2]):
                busy = "_busy" if condition.busy else ""
                run = supplied(Path(folder) / f"{clips}{busy}-run", shown, names)
                swaps = measure(browser, condition, run, answers, Path(folder) / f"{clips}{busy}-log")
                told = ("swap_ms_p50", "swap_ms_p95", "swap_ms_max", "load_average")
                found[clips] |= {f"{name}{busy}": swaps[name] for name in told}
            print(clips, json.dumps(found[clips]), flush=True)
        browser.close()
    cheaper = found["sheets"]["cpu_seconds_a_pair"] / max(1e-9, found["poses"]["cpu_seconds_a_pair"])
    print(json.dumps({"answers": answers, "cores": os.cpu_count(), "times_cheaper": round(cheaper), **found}))


if __name__ == "__main__":
    main()
