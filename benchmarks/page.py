"""How soon the next pair is on the screen after the key that answered the last one.

    python benchmarks/page.py [--answers 200] [--clips sheets] [--quick]

Answers are given by key in Debian's Chromium, headless, on clips of the Hopper (47 frames, as poses that the browser
draws or as sheets of 256 pixels), one every 0.8 seconds, against a real server: with no and with 150 ms of latency on
each request, while a busy process holds each core, and, for comparison, with a page that fetches a pair only when it
needs one. `swap_ms`: from the key's event to the first frame of the next pair handed to the screen. Each part also
checks that the store has as many answers as there were keys, each under a UUID of its own, and none to a pair that had
not been on the screen. The last line is a JSON object of the figures; `swap_ms_p50` and `swap_ms_p95` are the worse of
the two latencies.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, Route, sync_playwright

from backflip.envs import TASKS
from backflip.envs.clips import Clip, draw_segment, save_clip
from backflip.envs.collect import Collector
from backflip.envs.poses import pose_segment, save_posed
from backflip.rundir import RunDir
from backflip.schema import CHOICES, event, showing
from backflip.segments import Segments
from backflip.web.security import fingerprint, run_token
from served import Served, make_run

TASK = TASKS["hopper-backflip"]
SEGMENT_STEPS = 188
"""1.5 seconds of it."""
DRAWN = 20
"""Clips that are drawn; the others are these from another frame on, so that no two files are the same."""
SPARE = 8
"""Pairs beyond those that are answered."""
LATENCY_MS = 150
PACE_MS = 800
"""From a pair on the screen to the key that answers it; people take 3-5 seconds."""
KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
CHROMIUM = "/usr/bin/chromium"
RECORDER = """
window.swaps = [];
window.painted = [];
let pressed = null;
const press = ({ timeStamp }) => { pressed = { at: timeStamp, pair: document.body.dataset.showing }; };
addEventListener("keydown", press, true);
new PerformanceObserver((list) => {
  for (const { name, startTime, detail } of list.getEntries()) {
    if (name !== "shown") continue;
    painted.push(detail);
    if (pressed === null || String(detail) === pressed.pair) continue;
    swaps.push(startTime - pressed.at);
    pressed = null;
  }
}).observe({ entryTypes: ["mark"] });
"""
AHEAD = "Math.max(0, AHEAD - this.#ready.length)"
ONLY_WHEN_NEEDED = "this.holding().length || this.#ready.length ? 0 : 1"


@dataclass(frozen=True)
class Condition:
    """Under what circumstances the page is used."""

    name: str
    latency_ms: int = 0
    busy: bool = False
    prefetch: bool = True


CONDITIONS = (
    Condition("prefetch, no latency"),
    Condition(f"prefetch, {LATENCY_MS} ms", LATENCY_MS),
    Condition("prefetch, both cores busy", busy=True),
    Condition("no prefetch, no latency", prefetch=False),
    Condition(f"no prefetch, {LATENCY_MS} ms", LATENCY_MS, prefetch=False),
)


def behaviour(count: int) -> list[Any]:
    """The states of so many clips of a Hopper that does anything."""
    rng = np.random.default_rng(0)
    collector = Collector(TASK, 1, 0, filmed=1)
    low, high = collector.action_space.low, collector.action_space.high  # type: ignore[attr-defined]  # a box
    steps = SEGMENT_STEPS * count
    states = collector.collect(lambda seen: rng.uniform(low, high, (len(seen), len(low))), steps).states[:, 0]
    return np.split(states, count)


def draw(directory: Path, count: int, clips: str) -> list[str]:
    """So many clips, no two of them the same: "poses" or "sheets"."""
    names: list[str] = []
    parts = behaviour(min(DRAWN, count))
    drawn = [draw_segment(TASK, part, len(part)) for part in parts] if clips == "sheets" else []
    posed = [pose_segment(TASK, part, len(part)) for part in parts] if clips == "poses" else []
    for by in range(-(-count // len(parts))):
        names += [save_clip(directory, Clip(np.roll(clip.frames, by, axis=0), clip.fps)) for clip in drawn]
        names += [save_posed(directory, replace(one, poses=np.roll(one.poses, by, axis=0))) for one in posed if one]
    return names[:count]


def supplied(path: Path, clips: Path, names: list[str]) -> RunDir:
    """A run in which all these clips wait in pairs."""
    run = make_run(path)
    for name in names:
        for file in clips.glob(f"{name}.*"):
            os.link(file, run.clips / file.name)
    for file in clips.glob("*.geometry.json"):
        os.link(file, run.clips / file.name)
    n = len(names)
    nothing = Segments(
        ids=np.full(n, -1, np.int64),
        observations=np.zeros((n, 4, 2), np.float32),
        actions=np.zeros((n, 4, 1), np.float32),
        true_rewards=np.full((n, 4), np.nan, np.float32),
        states=np.zeros((n, 4, 0), np.float32),
        policy_steps=np.zeros(n, np.int64),
        lengths=np.full(n, 4, np.int64),
    )
    with closing(run.store()) as store, store.transaction():
        ids = store.add(nothing)
        store.ask(ids.reshape(-1, 2))
        for number, name in zip(ids.tolist(), names, strict=True):
            store.set_clip(number, name)
        store.mark_drawn()
    return run


def measure(browser: Browser, condition: Condition, run: RunDir, answers: int, log: Path) -> dict[str, Any]:
    """Answer so many pairs by key, and see what came of it."""
    with Served(run, log) as page_server, _busy(os.cpu_count() or 1 if condition.busy else 0):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(60_000)
        context.add_init_script(RECORDER + f"localStorage.setItem('{guide_read(run)}', '0');")
        page = context.new_page()
        if not condition.prefetch:
            page.route("**/static/queue.js", _without_prefetch)
        network = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1, "latency": condition.latency_ms}
        context.new_cdp_session(page).send("Network.emulateNetworkConditions", network)
        page.goto(f"{page_server.home}/label?token={run_token(run)}")
        _ready(page)
        for number in range(answers):
            _answer(page, KEYS[number % len(KEYS)])
        page.wait_for_function("() => document.getElementById('saved').textContent === 'all saved'")
        page.wait_for_timeout(1000 + 2 * condition.latency_ms)
        swaps, painted = page.evaluate("[swaps, painted]")
        context.close()
    assert len(swaps) == answers, f"{answers} keys brought {len(swaps)} pairs to the screen"
    _verify(run, answers, set(painted))
    return {
        "condition": condition.name,
        "answers": answers,
        "swap_ms_p50": round(float(np.median(swaps)), 1),
        "swap_ms_p95": round(float(np.percentile(swaps, 95)), 1),
        "swap_ms_max": round(max(swaps), 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _answer(page: Page, key: str) -> None:
    pair = page.evaluate("document.body.dataset.showing")
    page.keyboard.press(key)
    script = """([pair, pace]) => {
      const shown = performance.getEntriesByName("shown").at(-1);
      return shown && String(shown.detail) === document.body.dataset.showing && String(shown.detail) !== pair
        && performance.now() - shown.startTime > pace;
    }"""
    page.wait_for_function(script, arg=[pair, PACE_MS])


def _ready(page: Page) -> None:
    """Until the first pair has been looked at, and what the page fetches ahead is there."""
    page.wait_for_function(f"() => painted.length > 0 && performance.now() > {2 * PACE_MS}")
    page.wait_for_timeout(2 * PACE_MS)


def _verify(run: RunDir, keys: int, painted: set[int]) -> None:
    """What must be true of what is stored, whatever it took."""
    with closing(run.store()) as store, store.engine.connect() as c:
        rows = c.execute(sa.select(event.c.uuid, event.c.query).where(event.c.kind.in_(CHOICES))).all()
        shown = {row.query: row.id for row in c.execute(sa.select(showing.c.query, showing.c.id))}
    assert len(rows) == keys, f"{keys} keys, {len(rows)} answers"
    assert len({row.uuid for row in rows}) == len({row.query for row in rows}) == keys
    unseen = {shown[row.query] for row in rows} - painted
    assert not unseen, f"answered, but never on the screen: {unseen}"


def _without_prefetch(route: Route) -> None:
    """The page's own script, but that it fetches a pair only when there is none on the screen."""
    reply = route.fetch()
    script = reply.text()
    assert AHEAD in script, "the page fetches ahead in another way now; change AHEAD in this benchmark"
    route.fulfill(response=reply, body=script.replace(AHEAD, ONLY_WHEN_NEEDED))


def guide_read(run: RunDir) -> str:
    """Where the browser keeps which guide was read."""
    return f"backflip/{fingerprint(run_token(run))}/read"


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but hold a core each."""
    spinning = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in spinning:
        process.start()
    yield
    for process in spinning:
        process.kill()
        process.join()


def _spin() -> None:
    square = np.ones((300, 300), np.float32)
    while True:
        square @ square


def main() -> None:
    """Every condition, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--clips", choices=("poses", "sheets"), default="poses")
    parser.add_argument("--quick", action="store_true", help="eight answers each")
    options = parser.parse_args()
    answers = 8 if options.quick else options.answers
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        begun = time.monotonic()
        clips = Path(folder) / "clips"
        clips.mkdir()
        names = draw(clips, 2 * (answers + SPARE), options.clips)
        print(f"{len(names)} clips in {time.monotonic() - begun:.0f} s", flush=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for number, condition in enumerate(CONDITIONS):
            run = supplied(Path(folder) / f"run-{number}", clips, names)
            log = Path(folder) / f"log-{number}"
            found[condition.name] = measure(browser, condition, run, answers, log)
            print(json.dumps(found[condition.name]), flush=True)
        browser.close()
    still, latent, busy, *without = found.values()
    print(
        json.dumps(
            {
                "swap_ms_p50": max(still["swap_ms_p50"], latent["swap_ms_p50"]),
                "swap_ms_p95": max(still["swap_ms_p95"], latent["swap_ms_p95"]),
                "swap_ms_p50_busy": busy["swap_ms_p50"],
                "swap_ms_p95_busy": busy["swap_ms_p95"],
                "without_prefetch_ms_p50": [one["swap_ms_p50"] for one in without],
                "without_prefetch_ms_p95": [one["swap_ms_p95"] for one in without],
                "answers": answers,
                "clips": options.clips,
                "parts": list(found.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
