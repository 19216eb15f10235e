"""A Hopper is taught by clicking: the real command, the real page in a real browser, the policy training meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

QUERIES = 60
LONGEST_WAIT = 240.0
KEYS = ["ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowRight", "ArrowLeft", "ArrowDown"]
PICTURES = os.environ.get("BACKFLIP_PICTURES")
"""A folder to write screenshots of both pages into."""

pytestmark = [pytest.mark.slow, pytest.mark.browser]


class Pulse:
    """Follows what the policy says it is doing, to see whether it ever stands still."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.beats: list[tuple[float, int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(0.05):
            try:
                now = json.loads((self.run / "now" / "act.json").read_text())
            except FileNotFoundError:
                continue
            if not self.beats or now["steps"] != self.beats[-1][1]:
                self.beats.append((time.monotonic(), now["steps"], now["reward_version"]))

    def stop(self) -> list[tuple[float, int, int]]:
        """(when, steps, r̂ number) of each change since the first r̂."""
        self._stop.set()
        self._thread.join()
        return [beat for beat in self.beats if beat[2] > 0]


def test_sixty_queries_are_answered_in_a_browser_while_the_policy_trains(chromium: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from backflip.rundir import RunDir

    path = tmp_path / "run"
    command = [sys.executable, "-m", "backflip", "demo", "--run", str(path), "--no-browser"]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        link = _link(tmp_path / "log", process)
        pulse = Pulse(path)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            _open(page, link)
            page.click("#guide-start", timeout=LONGEST_WAIT * 1000)
            run = RunDir.open(path)
            with closing(run.store()) as store:
                for number in range(QUERIES):
                    if number == QUERIES // 2 and PICTURES:
                        page.wait_for_selector('body[data-state="showing"]', timeout=LONGEST_WAIT * 1000)
                        page.wait_for_timeout(900)
                        page.screenshot(path=f"{PICTURES}/label.png")
                    _answer(page, store, number)
            watching = browser.new_page(viewport={"width": 1280, "height": 1000})
            watching.goto(link.split("?")[0].replace("/label", "/run") + "?" + link.split("?")[1])
            watching.wait_for_timeout(3000)
            if PICTURES:
                watching.screenshot(path=f"{PICTURES}/run.png", full_page=True)
            assert "hopper-backflip" in watching.inner_text("body")
            browser.close()
        with closing(run.store()) as store:
            counts = store.counts()
        _await(run, "fit", "comparisons", counts.labels - counts.incomparable)
        _await(run, "act", "reward_version", run.told("fit")["version"])
        _await(run, "act", "steps", run.told("act")["steps"] + 1)  # it goes on although nobody answers any more
        beats = pulse.stop()
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        log.close()
    said = (tmp_path / "log").read_text()
    assert process.returncode == 0, said
    assert "backflip resume" in said
    assert complaints == []
    with closing(run.store(check=True)) as store:
        preferences = store.preferences()
        counts = store.counts()
    assert counts.labels == QUERIES == len(preferences)
    assert len({given.uuid for given, _ in preferences}) == QUERIES
    assert len({query.id for _, query in preferences}) == QUERIES, "each query was answered once"
    assert min(counts.left, counts.right, counts.equal, counts.incomparable) > 0
    assert all(given.seconds and given.seconds > 0 for given, _ in preferences)
    assert len(beats) > 1, "the policy trains on an r̂"
    pauses = [later[0] - earlier[0] for earlier, later in pairwise(beats)]
    print(f"longest pause of the policy {max(pauses):.2f} s, median {sorted(pauses)[len(pauses) // 2]:.2f} s")
    lines, _ = run.metrics()
    delays = [line["value"] for line in lines if line["name"] == "fit/answer_to_reward"]
    print(f"answer to reward: median {sorted(delays)[len(delays) // 2]:.2f} s")


def _link(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://\S+/label\?token=\S+", log.read_text())
        if found:
            return found.group()
        time.sleep(0.1)
    raise AssertionError(f"no link was printed: {log.read_text()}")


def _await(run: Any, part: str, what: str, least: int) -> None:
    """Wait until a part of the run has come so far; a quick teacher is done before it."""
    deadline = time.monotonic() + LONGEST_WAIT
    while run.told(part).get(what, 0) < least:
        assert time.monotonic() < deadline, f"{part} never came to {what} {least}"
        time.sleep(0.1)


def _open(page: Any, link: str) -> None:
    from playwright.sync_api import Error

    deadline = time.monotonic() + 60
    while True:
        try:
            page.goto(link)
        except Error:  # the server is still starting
            assert time.monotonic() < deadline
            time.sleep(0.3)
        else:
            return


def _answer(page: Any, store: Any, number: int) -> None:
    """Press the next key until the answer is in the store; a person would look first, for half a second here."""
    before = store.counts().labels
    assert before == number
    deadline = time.monotonic() + LONGEST_WAIT
    while store.counts().labels == before:
        assert time.monotonic() < deadline, f"answer {number} never arrived"
        page.wait_for_selector('body[data-state="showing"]', timeout=LONGEST_WAIT * 1000)
        page.wait_for_timeout(500)
        page.keyboard.press(KEYS[number % len(KEYS)])
        patience = time.monotonic() + 5  # a key that comes too early after a swap is ignored
        while store.counts().labels == before and time.monotonic() < patience:
            page.wait_for_timeout(50)
