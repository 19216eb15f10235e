"""What the tests of the pages share: a run to look at, its server in a process of its own, and how to look."""

import hashlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from playwright.sync_api import BrowserContext, Page

from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.texts import Text, pack_texts, save_text
from backflip.web.security import fingerprint, run_token

SERVER = """
import sys
from pathlib import Path
from backflip.rundir import RunDir
from backflip.web.security import run_token
from backflip.web.server import bind, serve
listening = bind(port=int(sys.argv[2]))
print("ready", flush=True)
serve(Path(sys.argv[1]), listening, run_token(RunDir.open(Path(sys.argv[1]))))
"""


def make_run(path: Path, **settings: Any) -> RunDir:
    given = {
        "task": "hopper-backflip",
        "question": "Which of the two looks more like a backflip? If neither does: which comes closer?",
        "teacher": "people",
        "seed": 1,
        "labels": 300,
    }
    return RunDir.create(path, given | settings)


def draw_clip(run: RunDir, seed: int, frames: int = 30, fps: int = 20, mime: str = "image/png", size: int = 64) -> str:
    """A dot on its way; the top left corner's red is 4 x the frame's number, to be read back from the canvas."""
    rng = np.random.default_rng(seed)
    columns = 6
    sheet = Image.new("RGB", (columns * size, -(-frames // columns) * size))
    colour = tuple(int(c) for c in rng.integers(90, 255, 3))
    turn, phase = rng.uniform(0.5, 2), rng.uniform(0, 6)
    for frame in range(frames):
        tile = Image.new("RGB", (size, size), (28, 34, 46))
        pen = ImageDraw.Draw(tile)
        angle = phase + turn * 6.28 * frame / frames
        x, y = size / 2 + size / 3 * np.cos(angle), size / 2 + size / 3 * np.sin(angle)
        r = size / 9
        pen.line((0, size * 0.87, size, size * 0.87), fill=(70, 80, 100), width=max(1, size // 60))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        pen.rectangle((0, 0, 5, 5), fill=(4 * frame, 0, 0))
        sheet.paste(tile, (frame % columns * size, frame // columns * size))
    suffix = mime.split("/")[1]
    temporary = run.clips / f"new.{suffix}"
    sheet.save(temporary)
    name = hashlib.sha256(temporary.read_bytes()).hexdigest()
    temporary.rename(run.clips / f"{name}.{suffix}")
    meta = {"frame_width": size, "frame_height": size, "columns": columns, "frames": frames, "fps": fps, "mime": mime}
    (run.clips / f"{name}.json").write_text(json.dumps(meta))
    return name


def add_pairs(run: RunDir, count: int, right: dict[str, Any] | None = None, **drawing: Any) -> list[int]:
    """Put queries whose clips are drawn into the store, and return their numbers in the order of their showing."""
    n = 2 * count
    segments = Segments(
        ids=np.full(n, -1, np.int64),
        observations=np.zeros((n, 4, 2), np.float32),
        actions=np.zeros((n, 4, 1), np.float32),
        true_rewards=np.zeros((n, 4), np.float32),
        states=np.zeros((n, 4, 0), np.float32),
        policy_steps=np.zeros(n, np.int64),
        lengths=np.full(n, 4, np.int64),
    )
    store = run.store()
    try:
        ids = store.add(segments)
        asked = store.ask(ids.reshape(count, 2))
        for position, i in enumerate(ids.tolist()):
            store.set_clip(i, draw_clip(run, i, **(drawing | (right or {} if position % 2 else {}))))
        store.mark_drawn()
    finally:
        store.close()
    return [query.id for query in asked]


def segments_of(written: list[Text], room: int, moment: int = 0, width: int = 8) -> Segments:
    """Texts as a policy that has come so far would record them."""
    n = len(written)
    return Segments(
        ids=np.full(n, -1, np.int64),
        observations=np.zeros((n, 1, width), np.float32),
        actions=np.zeros((n, 1, 0), np.float32),
        true_rewards=np.zeros((n, 1), np.float32),
        states=pack_texts(written, 1, room),
        policy_steps=np.full(n, moment, np.int64),
        lengths=np.ones(n, np.int64),
    )


def add_texts(run: RunDir, pairs: list[tuple[str, str, str]], room: int = 40_000) -> list[int]:
    """Put queries between texts (prompt, left completion, right completion) into the store; return their numbers."""
    written = [Text(prompt, side) for prompt, *sides in pairs for side in sides]
    segments = segments_of(written, room)
    with closing(run.store()) as store:
        ids = store.add(segments)
        asked = store.ask(ids.reshape(-1, 2))
        for i, text in zip(ids.tolist(), written, strict=True):
            store.set_clip(i, save_text(run.clips, text))
        store.mark_drawn()
    return [query.id for query in asked]


def choices(run: RunDir) -> dict[int, str]:
    """The choices that stand, as they were seen on the page, by the number of the showing."""
    connection = sqlite3.connect(run.path / "run.db")
    try:
        shown = dict(connection.execute("select query, max(id) from showing group by query").fetchall())
    finally:
        connection.close()
    store = run.store()
    try:
        given = [(store.shown(shown[p.query], p.teacher), p.choice) for p, _ in store.preferences()]
    finally:
        store.close()
    return {showing.id: showing.meant(choice).value for showing, choice in given}  # exchanging twice changes nothing


def events(run: RunDir) -> list[tuple[str, str]]:
    """All (kind, uuid) that the store has ever logged."""
    connection = sqlite3.connect(run.path / "run.db")
    try:
        return connection.execute("select kind, uuid from event order by seq").fetchall()
    finally:
        connection.close()


class Server:
    """A page's server in a process of its own, that can die and come back."""

    def __init__(self, run: RunDir, port: int) -> None:
        self.run, self.port = run, port
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin to start; `ready` waits until it has."""
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        command = [sys.executable, "-c", SERVER, str(self.run.path), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.communicate(timeout=10)

    @property
    def link(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={run_token(self.run)}"


def free_port() -> int:
    """A port that is free, and below those that systems hand out by themselves: nobody is given it meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def seen_pair(page: Page) -> int:
    """The number of the showing on the screen, once it has been there for long enough to be answered."""
    script = """() => {
      const shown = performance.getEntriesByName("shown").at(-1);
      const pair = document.body.dataset.showing;
      return shown && String(shown.detail) === pair && performance.now() - shown.startTime > 420 && pair;
    }"""
    return int(page.wait_for_function(script).json_value())


def wait_ready(page: Page, pairs: int = 3) -> None:
    page.wait_for_function(f"() => document.getElementById('ready').textContent.startsWith('{pairs} pair')")


def wait_saved(page: Page) -> None:
    page.wait_for_function("() => document.getElementById('saved').textContent === 'all saved'")


def frames_seen(page: Page, count: int) -> list[list[int]]:
    """The frames that both canvases show, at so many moments of painting in a row."""
    script = """async (count) => {
      const sides = ["left", "right"].map((id) => document.getElementById(id).getContext("2d"));
      const seen = [];
      for (let i = 0; i < count; i++) {
        await new Promise(requestAnimationFrame);
        seen.push(sides.map((side) => Math.round(side.getImageData(1, 1, 1, 1).data[0] / 4)));
      }
      return seen;
    }"""
    found: list[list[int]] = page.evaluate(script, count)
    return found


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Until an element says so: words follow the state of the page by up to one look at the server."""
    says = "([selector, text]) => document.querySelector(selector).textContent.includes(text)"
    page.wait_for_function(says, arg=[selector, text])


def read_the_guide(context: BrowserContext, run: RunDir, version: int = 0, name: str = "you") -> None:
    """Let the browser know that somebody has read the guide, so that it does not open by itself."""
    key = f"backflip/{fingerprint(run_token(run))}/{name}/read"
    context.add_init_script(f"localStorage.setItem({json.dumps(key)}, '{version}')")
