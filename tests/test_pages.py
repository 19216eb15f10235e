"""The pages in a real browser, against a real server in a process of its own."""

import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.web.security import run_token

pytestmark = pytest.mark.browser

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


# ---- a run to look at


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


# ---- a browser to look with


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; afterwards nothing may have gone wrong in them, and nothing may have left this machine."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def listen(page: Page, expected: str) -> None:
        def heard(kind: str, text: str) -> None:
            if kind == "error" and not (expected and re.search(expected, text)):
                complaints.append(text)

        def asked(url: str) -> None:
            if not re.match(r"^(http://127\.0\.0\.1:\d+/|blob:|data:|about:)", url):
                complaints.append(f"a request to {url}")

        page.on("console", lambda message: heard(message.type, message.text))
        page.on("pageerror", lambda error: heard("error", str(error)))
        page.on("request", lambda request: asked(request.url))

    def open_one(url: str, expected: str = "", context: BrowserContext | None = None, **options: Any) -> Page:
        if context is None:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
            context.set_default_timeout(20_000)
            contexts.append(context)
        page = context.new_page()
        listen(page, expected)
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of new runs."""
    servers: list[Server] = []

    def start(pairs: int = 0, **drawing: Any) -> Server:
        server = Server(make_run(tmp_path / f"run-{len(servers)}"), free_port())
        server.start()
        servers.append(server)
        add_pairs(server.run, pairs, **drawing)
        server.ready()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with many pairs, for the tests that look only at what they did themselves."""
    run = make_run(tmp_path_factory.mktemp("shared") / "run")
    server = Server(run, free_port())
    server.start()
    add_pairs(run, 45)
    run.tell("act", state="training", steps=1_234_567, reward_version=14)
    run.tell("fit", comparisons=56)
    server.ready()
    yield server
    server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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


# ---- answering


def test_sides_are_exchanged_on_some_showings_and_the_store_hears_what_was_meant(
    shared: Server, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared.link)
    exchanged: dict[bool, str] = {}
    while len(exchanged) < 2:
        pair = seen_pair(page)
        page.keyboard.press("ArrowLeft")
        wait_until(lambda pair=pair: pair in choices(shared.run))  # type: ignore[misc]  # bound at once
        store = shared.run.store()
        showing = store.shown(pair, "you")
        exchanged[showing.flipped] = {p.query: p.choice.value for p, _ in store.preferences()}[showing.query]
        store.close()
    assert exchanged == {False: "left", True: "right"}


def test_the_four_answers_by_key_and_by_click(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared.link)
    assert page.url.endswith("/label")
    given: dict[int, str] = {}
    keys = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowUp": "equal", "ArrowDown": "incomparable"}
    for key, choice in keys.items():
        given[seen_pair(page)] = choice
        page.keyboard.press(key)
    for choice in keys.values():
        given[seen_pair(page)] = choice
        page.click(f"[data-choice={choice}]")
    wait_until(lambda: given.items() <= choices(shared.run).items())
    assert len(given) == 8
    wait_saved(page)
    assert page.inner_text("#today") == "8"
    assert page.inner_text("#question").startswith("Which of the two")
    assert page.inner_text("#policy") == "The policy is training: 1.23 M steps · r̂ #14 · 56 answers learned"
    assert page.inner_text("#last") == "You said can’t tell."


def test_undo_brings_the_pair_back_and_only_the_new_answer_counts(
    shared: Server, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared.link)
    first = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    second = seen_pair(page)
    page.keyboard.press("ArrowRight")
    seen_pair(page)
    page.keyboard.press("u")
    assert seen_pair(page) == second
    page.click("#undo")
    assert seen_pair(page) == first
    assert page.inner_text("#last") == "Taken back: you had said left."
    assert page.is_disabled("#undo")
    page.keyboard.press("ArrowUp")
    assert seen_pair(page) == second
    page.reload()  # what can be undone outlives the page
    seen_pair(page)
    page.keyboard.press("Backspace")
    assert seen_pair(page) == first
    page.keyboard.press("ArrowDown")
    wait_until(lambda: choices(shared.run).get(first) == "incomparable")
    assert second not in choices(shared.run)


def test_a_skipped_pair_gets_no_label(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared.link)
    skipped = seen_pair(page)
    page.keyboard.press("s")
    other = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: other in choices(shared.run))
    assert skipped not in choices(shared.run)
    page.reload()
    assert seen_pair(page) != skipped


def test_a_held_key_is_one_answer_and_a_hasty_one_is_none(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared.link)
    before = len(choices(shared.run))
    seen_pair(page)
    wait_ready(page)
    for _ in range(25):
        page.keyboard.down("ArrowLeft")  # after the first, these are what a held key sends
        page.wait_for_timeout(40)
    page.keyboard.up("ArrowLeft")
    wait_until(lambda: len(choices(shared.run)) == before + 1)
    pair = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")  # nobody has looked at this pair yet
    wait_until(lambda: len(choices(shared.run)) == before + 2)
    wait_saved(page)
    assert choices(shared.run)[pair] == "left"
    assert len(choices(shared.run)) == before + 2


def test_the_next_pair_is_on_the_screen_with_the_key(
    shared: Server, open_page: Callable[..., Page], capsys: pytest.CaptureFixture[str]
) -> None:
    page = open_page(shared.link)
    swaps = []
    for _ in range(8):
        seen_pair(page)
        wait_ready(page)
        before = page.evaluate("document.body.dataset.showing")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.body.dataset.showing") not in ("", before)
        page.wait_for_function("() => performance.getEntriesByName('swap').length === 1")
        swaps.append(page.evaluate("performance.getEntriesByName('swap')[0].duration"))
        page.evaluate("performance.clearMeasures('swap')")
    wait_saved(page)
    acknowledged = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/api/answer')).map(e => e.duration)"
    )
    with capsys.disabled():
        sys.stdout.write(
            f"\n  key to paint: median {statistics.median(swaps):.1f} ms, worst {max(swaps):.1f} ms; answer to "
            f"acknowledgement: median {statistics.median(acknowledged):.1f} ms, worst {max(acknowledged):.1f} ms\n"
        )
    assert statistics.median(swaps) < 60


def test_both_clips_are_on_one_clock(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(1, frames=40, fps=40, right={"frames": 20, "fps": 20})
    page = open_page(server.link)
    seen_pair(page)
    seen = [sorted(frames) for frames in frames_seen(page, 80)]  # whichever of them is on the left
    assert len({fast for _, fast in seen}) > 10
    assert all(fast // 2 == slow for slow, fast in seen)

    page.keyboard.press("ArrowLeft")
    add_pairs(server.run, 1, frames=30, fps=40, right={"frames": 10})
    seen_pair(page)
    seen = [sorted(frames) for frames in frames_seen(page, 70)]
    assert all(short == min(long, 9) for short, long in seen), "the shorter one rests until the longer has ended"
    page.keyboard.press(" ")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    assert len({tuple(frames) for frames in frames_seen(page, 15)[3:]}) == 1
    page.keyboard.press(" ")
    assert len({tuple(frames) for frames in frames_seen(page, 40)}) > 1


def test_who_wants_less_motion_starts_with_still_clips(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared.link, reduced_motion="reduce")
    page.wait_for_selector("body[data-state=showing]")
    assert frames_seen(page, 20)[-1] == [0, 0]
    assert "Play" in page.inner_text("#pause")


def test_the_page_fits_a_phone(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared.link, viewport={"width": 390, "height": 800}, has_touch=True)
    pair = seen_pair(page)
    boxes = {name: page.locator(name).bounding_box() for name in ("#left", "#right", "[data-choice=left]", ".link")}
    left, right, button, corner = boxes.values()
    assert left
    assert right
    assert button
    assert corner
    assert right["y"] >= left["y"] + left["height"]
    assert left["width"] > 180
    assert button["height"] >= 44
    assert corner["x"] + corner["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("[data-choice=left]")
    wait_until(lambda: choices(shared.run).get(pair) == "left")
    assert page.inner_text("#last") == "You said upper."


def test_a_link_on_another_site_opens_the_page(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page("about:blank", expected="401")
    page.set_content(f"<a href='{shared.link}'>here</a>")
    page.click("a")
    page.wait_for_url("**/label")
    page.wait_for_selector("body[data-state=showing]")


# ---- when something is missing


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Until an element says so: words follow the state of the page by up to one look at the server."""
    says = "([selector, text]) => document.querySelector(selector).textContent.includes(text)"
    page.wait_for_function(says, arg=[selector, text])


def test_out_of_pairs_it_waits_and_goes_on_by_itself_until_the_run_is_over(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(0)
    page = open_page(server.link)
    page.wait_for_selector("body[data-state=waiting]")
    wait_for_text(page, "#notice-title", "agent is making new clips")
    wait_for_text(page, "#notice-text", "for the first time")
    add_pairs(server.run, 1)
    pair = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("body[data-state=waiting]")
    wait_for_text(page, "#notice-text", "answered everything")
    wait_until(lambda: choices(server.run) == {pair: "left"})
    page.keyboard.press("u")  # the only pair, so it comes back
    assert seen_pair(page) == pair
    page.keyboard.press("ArrowRight")
    add_pairs(server.run, 2)
    assert seen_pair(page) != pair
    server.run.tell("run", state="finished", message="5 M steps are done")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-state=over]")
    wait_for_text(page, "#notice-title", "The run is finished")
    wait_for_text(page, "#notice-text", "5 M steps are done. Thank you: every answer of yours is saved")
    server.run.tell("run", state="running")
    seen_pair(page)


def test_a_damaged_clip_is_passed_over_and_said(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(3)
    store = server.run.store()
    claims = store.claim("you", 3)
    store.close()
    sheet = server.run.clips / f"{claims[0].left_clip}.png"
    sheet.write_bytes(sheet.read_bytes()[:60])
    page = open_page(server.link)
    assert seen_pair(page) == claims[1].showing
    assert "could not be shown" in page.inner_text("#last")
    wait_until(lambda: [kind for kind, _ in events(server.run)] == ["flag"])
    page.keyboard.press("ArrowLeft")
    assert seen_pair(page) == claims[2].showing


def test_no_answer_is_lost_or_doubled_when_the_server_dies(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(8)
    refused = "ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|FAILED|CONTENT_LENGTH_MISMATCH|INCOMPLETE)"
    page = open_page(server.link, expected=refused)
    given: dict[int, str] = {}

    def swallow(route: Route) -> None:
        route.fetch()  # the server hears it, the page never hears back
        route.abort()

    page.route("**/api/answer", swallow, times=1)
    given[seen_pair(page)] = "left"
    page.keyboard.press("ArrowLeft")
    wait_ready(page)
    wait_saved(page)
    server.stop()
    for _ in range(3):
        given[seen_pair(page)] = "right"
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('saved').textContent === 'offline · 3 waiting'")
    context = page.context
    page.close()  # not even this loses what was said
    server.start()
    server.ready()
    page = open_page(server.link, expected=refused, context=context)
    wait_saved(page)
    wait_until(lambda: len(choices(server.run)) == 4)
    assert choices(server.run) == given
    assert len(events(server.run)) == 4
    server.stop()
    given[seen_pair(page)] = "equal"
    page.keyboard.press("ArrowUp")
    server.start()
    server.ready()
    wait_until(lambda: choices(server.run) == given)
    assert len({uuid for _, uuid in events(server.run)}) == len(events(server.run)) == 5


# ---- the run page


def measure(run: RunDir, steps: range) -> None:
    for step in steps:
        run.record(
            step * 1000,
            {
                "act/predicted_return": step**0.5,
                "act/true_return": 10.0 * step,
                "act/steps_per_second": 9000.0 + step % 7,
                "fit/train_loss": 0.3 + 1 / (step + 1),
                "fit/validation_loss": 0.4 + 1 / (step + 1),
                "fit/loss_ratio": 1.31,
                "fit/accuracy": 0.87,
                "ask/labels": step,
                "ask/due": step + 3,
                "ask/disagreement": 0.08,
                "ask/disagreement_candidates": 0.03,
            },
        )


def test_the_run_page_shows_numbers_and_curves_and_keeps_the_zoom(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(0)
    page = open_page(server.link)
    page.click(".link")
    page.wait_for_url("**/run")
    page.wait_for_function("() => document.getElementById('labels').textContent === '0'")
    assert "first rollout" in page.inner_text(".chart >> nth=0")
    assert page.locator(".chart canvas").count() == 0

    measure(server.run, range(1, 40))
    server.run.tell("act", state="training", steps=39_000, total_steps=1_000_000, steps_per_second=9000.0)
    server.run.tell("fit", version=7, comparisons=31)
    page.wait_for_function("() => document.getElementById('steps').textContent === '39 k'")
    assert page.locator(".chart canvas").count() == 7
    numbers = {name: page.inner_text(f"#{name}") for name in ("state", "speed", "version", "ratio", "accuracy")}
    assert numbers == {"state": "running", "speed": "9000/s", "version": "#7", "ratio": "1.31", "accuracy": "87 %"}
    assert page.inner_text("#steps-more") == "steps so far", "people end the run: there is nothing to count down to"
    assert "within 1.1–1.5" in page.inner_text("#ratio-more")

    chart = page.locator(".chart >> nth=0")
    box = chart.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 40, steps=3)
    page.mouse.up()
    page.mouse.move(1, 1)
    chart.get_by_text("show all").wait_for()
    picture = "(chart) => new Promise(requestAnimationFrame).then(() => chart.querySelector('canvas').toDataURL())"
    zoomed = chart.evaluate(picture)
    measure(server.run, range(40, 60))
    page.wait_for_function("() => document.querySelector('.chart').innerText.includes('590')")
    assert chart.evaluate(picture) == zoomed
    chart.get_by_text("show all").click()
    assert chart.evaluate(picture) != zoomed
    page.click("[data-axis=seconds]")
    page.click("#to-label")
    page.wait_for_selector("body[data-state=waiting]")
