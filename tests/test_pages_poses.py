"""Clips that the browser draws, in a real browser: with WebGL, without it, and when it goes away."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from backflip.asking import Ask
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.segments import Array, Segments
from backflip.settings import Settings
from backflip.store import new_uuid
from pages import Server, events, read_the_guide, seen_pair, wait_for_text, wait_until

pytestmark = pytest.mark.browser

STEPS = 60
PICTURES = """async (moments) => {
  const sides = ["left", "right"].map((id) => document.getElementById(id));
  const seen = [];
  for (let i = 0; i < moments; i++) {
    await new Promise(requestAnimationFrame);
    seen.push(sides.map((side) => side.toDataURL()));
  }
  return seen;
}"""
COLOURS = """(id) => {
  const { width, height } = document.getElementById(id);
  const data = document.getElementById(id).getContext("2d").getImageData(0, 0, width, height).data;
  const share = (of) => {
    let count = 0;
    for (let i = 0; i < data.length; i += 4) if (of(data[i], data[i + 1], data[i + 2])) count++;
    return count / (data.length / 4);
  };
  return {
    orange: share((r, g, b) => r > 1.5 * g && g > 2.5 * b),
    blue: share((r, g, b) => b > 1.4 * g && g > 2 * r),
    red: share((r, g, b) => r > 2.5 * g && r > 2.5 * b),
    green: share((r, g, b) => g > 1.3 * b && g > 3 * r),
    grey: share((r, g, b) => Math.abs(r - g) < 12 && Math.abs(g - b) < 12),
  };
}"""


def somersault(begin: float, speed: float) -> Array:
    """A Hopper that turns over in the air, so many radians a step."""
    states = np.zeros((STEPS, 12), np.float32)
    states[:, 1] = 1.6
    states[:, 2] = -begin - speed * np.arange(STEPS)
    states[:, 4] = -0.5
    return states


def posed_run(path: Path, pairs: int) -> RunDir:
    """A run whose clips were made as for people."""
    run = RunDir.create(path, Settings("hopper-backflip", labels=99).to_dict() | {"question": "Which of the two?"})
    n = 2 * pairs
    segments = Segments(
        ids=np.full(n, -1, np.int64),
        observations=np.zeros((n, STEPS, 2), np.float32),
        actions=np.zeros((n, STEPS, 1), np.float32),
        true_rewards=np.zeros((n, STEPS), np.float32),
        states=np.stack([somersault(0.2 * i, 0.03) for i in range(n)]),
        policy_steps=np.arange(n),
        lengths=np.full(n, STEPS, np.int64),
    )
    with closing(run.store()) as store:
        store.ask(store.add(segments).reshape(-1, 2))
        teacher = Ask(run, store, Settings.from_dict(run.settings)).teacher
        while store.undrawn(1):
            teacher.teach(store)
    assert len(list(run.clips.glob("*.poses"))) == n
    return run


@pytest.fixture
def posed(tmp_path: Path, serve_run: Callable[..., Server]) -> Callable[..., Server]:
    return lambda pairs: serve_run(posed_run(tmp_path / "run", pairs))


def pictures(page: Page, moments: int = 1) -> list[list[str]]:
    """What both canvases show, at so many moments of painting in a row."""
    seen: list[list[str]] = page.evaluate(PICTURES, moments)
    return seen


def pause(page: Page) -> None:
    page.keyboard.press(" ")
    page.wait_for_selector(".paused")
    pictures(page, 12)  # the last one that was still to be drawn


def drag(page: Page, selector: str, right: float, down: float) -> None:
    """Hold the mouse's button over an element and move it so many pixels."""
    box = page.locator(selector).bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()
    page.wait_for_timeout(150)


def test_robots_move_in_their_colours_and_the_next_pair_comes_with_the_key(
    posed: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    page = open_page(posed(5))
    first = seen_pair(page)
    for side in ("left", "right"):
        shares = page.evaluate(COLOURS, side)
        assert min(shares[colour] for colour in ("orange", "blue", "red", "green")) > 0.0005, shares
        assert shares["grey"] > 0.3, "the floor"
    seen = pictures(page, 60)
    assert all(len({moment[side] for moment in seen}) > 5 for side in (0, 1)), "they move"
    assert all(left != right for left, right in seen)
    page.keyboard.press("ArrowLeft")
    second = seen_pair(page)
    assert second != first
    page.keyboard.press("u")
    assert seen_pair(page) == first
    fetched = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/geometries/')).length"
    assert page.evaluate(fetched) == 1


CARD = """
const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (what) {
  const told = ask.call(this, what);
  return typeof told === "string" && told.includes("SwiftShader") ? "A graphics card" : told;
};
"""


@pytest.mark.slow
def test_single_frames_are_those_that_were_recorded_and_slow_play_shows_what_is_between(
    posed: Callable[..., Server], open_page: Callable[..., Page], browser: Browser
) -> None:
    server = posed(2)
    context = browser.new_context()
    read_the_guide(context, server.run)
    context.add_init_script(CARD)  # the processor would show recorded frames only
    page = open_page(server, context=context)
    seen_pair(page)
    pause(page)
    page.keyboard.press("r")
    stills = []
    for _ in range(30):  # 60 steps of 20 ms are 30 frames
        stills.append(pictures(page, 3)[-1])
        page.keyboard.press(".")
    assert pictures(page, 3)[-1] == stills[0], "after the last comes the first"
    assert len({left for left, _ in stills}) == 30
    page.keyboard.press(",")
    assert pictures(page, 3)[-1] == stills[-1]
    for key in ("-", "-", " "):
        page.keyboard.press(key)
    between: set[str] = set()

    def seen_more() -> bool:
        between.update(left for left, _ in pictures(page, 9))
        return len(between - {left for left, _ in stills}) > 4

    wait_until(seen_more)
    context.close()


@pytest.mark.slow
def test_dragging_turns_both_and_a_double_click_turns_them_back(
    posed: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    page = open_page(posed(3))
    seen_pair(page)
    pause(page)
    page.keyboard.press("r")
    straight = pictures(page, 12)[-1]
    drag(page, "#left", 120, -30)
    turned = pictures(page)[-1]
    assert turned[0] != straight[0]
    assert turned[1] != straight[1]
    drag(page, "#right", -120, 30)
    page.dblclick("#right")
    assert pictures(page, 12)[-1] == straight
    page.keyboard.press("v")
    eighth = pictures(page, 12)[-1]
    assert eighth not in (straight, turned)
    page.click("#turn")
    assert pictures(page, 12)[-1] not in (straight, eighth)
    page.keyboard.press("b")
    assert pictures(page, 12)[-1] == straight
    page.keyboard.press("v")
    page.keyboard.press("ArrowUp")
    seen_pair(page)
    page.keyboard.press("u")
    seen_pair(page)
    assert pictures(page, 12)[-1] == straight, "every pair is seen from the same side at first"


@pytest.mark.slow
def test_a_wheel_scrolls_and_a_finger_answers(posed: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    page = open_page(posed(3), has_touch=True)
    pair = seen_pair(page)
    pause(page)
    before = pictures(page)[-1]
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 300)
    assert pictures(page, 12)[-1] == before
    swipe = """() => {
      const finger = { pointerType: "touch", pointerId: 5, clientY: 300, bubbles: true, isPrimary: true };
      const at = (type, clientX) =>
        document.getElementById("left").dispatchEvent(new PointerEvent(type, { ...finger, clientX }));
      at("pointerdown", 300); at("pointermove", 400); at("pointerup", 400);
    }"""
    page.evaluate(swipe)
    page.wait_for_function("(pair) => document.body.dataset.showing !== String(pair)", arg=pair)
    assert page.inner_text("#last") == "You said right."


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut poses", "wild poses", "no JSON", "a teapot"])
def test_a_damaged_clip_is_passed_over_and_left_to_others(
    posed: Callable[..., Server], open_page: Callable[..., Page], damage: str
) -> None:
    server = posed(2)
    with closing(server.run.store()) as store:
        broken, whole = store.claim("you", 2)
    poses = server.run.clips / f"{broken.left_clip}.poses"
    if damage == "cut poses":
        poses.write_bytes(poses.read_bytes()[:-4])
    elif damage == "wild poses":
        poses.write_bytes(b"\xff" * len(poses.read_bytes()))
    else:
        content = b"" if damage == "no JSON" else b'{"parts": [{"shape": "teapot"}]}'
        name = hashlib.sha256(content).hexdigest()
        about = json.loads(poses.with_suffix(".json").read_text())
        (server.run.clips / f"{name}.geometry.json").write_bytes(content)
        poses.with_suffix(".json").write_text(json.dumps(about | {"geometry": name}))
    page = open_page(server)
    assert seen_pair(page) == whole.showing
    assert "could not be shown" in page.inner_text("#last")
    wait_until(lambda: [kind for kind, _ in events(server.run)] == ["skip"])


@pytest.mark.slow
def test_the_run_page_shows_them_and_turns_them(posed: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = posed(3)
    with closing(server.run.store()) as store:
        query = store.claim("ana", 1)[0].query.id
        store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana"))
    page = open_page(server.link.replace("/?", "/run?"), context=None)
    page.click("[role=tab]:has-text('Clips')")
    page.click("#panel-clips >> text=newest")
    painted = "(canvas) => canvas.width > 300"
    page.wait_for_selector(".clip-card >> nth=5")
    for card in range(6):
        page.wait_for_function(painted, arg=page.query_selector_all(".clip-card canvas")[card])
    page.click(".clip-card >> nth=0")
    page.wait_for_function(painted, arg=page.wait_for_selector("dialog[open] canvas"))
    page.keyboard.press(" ")
    look = "() => document.querySelector('dialog[open] canvas').toDataURL()"
    page.wait_for_timeout(100)
    before = page.evaluate(look)
    drag(page, "dialog[open] canvas", 100, 0)
    assert page.evaluate(look) != before
    page.dblclick("dialog[open] canvas")
    assert page.evaluate(look) == before
    page.keyboard.press("Escape")
    page.click("[role=tab]:has-text('Pairs')")
    page.click("#panel-pairs >> text=newest")
    page.click(f"[aria-label='Watch pair {query}']")
    page.wait_for_selector("dialog[open] .turns >> nth=1")


# ---- browsers that cannot, or cannot any more


@pytest.fixture(scope="module")
def plain(browser: Browser, chromium: str) -> Iterator[Browser]:
    """A browser without WebGL."""
    found = browser.browser_type.launch(executable_path=chromium, args=["--no-sandbox", "--disable-3d-apis"])
    yield found
    found.close()


def draw_what_is_wanted(run: RunDir, count: int) -> None:
    """What the part that asks does, until it has drawn so many sheets."""
    with closing(run.store()) as store:
        ask = Ask(run, store, Settings.from_dict(run.settings))
        wait_until(lambda: not ask.step() and len(list(run.clips.glob("*.sheet.json"))) >= count)


@pytest.mark.slow
def test_without_webgl_the_run_draws_sheets(
    posed: Callable[..., Server], open_page: Callable[..., Page], plain: Browser
) -> None:
    server = posed(2)
    context = plain.new_context(viewport={"width": 1280, "height": 800})
    read_the_guide(context, server.run)
    page = open_page(server, context=context)
    page.wait_for_selector("#notice:visible")
    draw_what_is_wanted(server.run, 4)
    first = seen_pair(page)
    assert page.evaluate("document.getElementById('left').width") == 256
    assert page.evaluate(COLOURS, "left")["orange"] > 0.0005
    assert len({left for left, _ in pictures(page, 40)}) > 3
    assert not page.is_visible("#turn")
    page.keyboard.press("ArrowRight")
    assert seen_pair(page) != first
    context.close()


@pytest.mark.slow
def test_without_webgl_and_with_nobody_who_draws_the_page_says_so_and_waits(
    posed: Callable[..., Server], open_page: Callable[..., Page], plain: Browser
) -> None:
    server = posed(1)
    context = plain.new_context()
    read_the_guide(context, server.run)
    context.route("**/static/clips.js", shortened)
    page = open_page(server, context=context)
    wait_for_text(page, "#notice-text", "This browser cannot draw the clips itself")
    assert page.inner_text("#saved") == "all saved"
    draw_what_is_wanted(server.run, 2)
    seen_pair(page)
    context.close()


def shortened(route: Route) -> None:
    """The page's own script, with less patience."""
    reply = route.fetch()
    assert "PATIENCE_MS = 12000" in reply.text()
    route.fulfill(response=reply, body=reply.text().replace("PATIENCE_MS = 12000", "PATIENCE_MS = 300"))


WATCHED = """
const ask = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  const made = ask.call(this, kind, ...more);
  if (kind === "webgl2") window.lose = made.getExtension("WEBGL_lose_context");
  return made;
};
"""


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_graphics_card_that_goes_away_stops_nobody(
    posed: Callable[..., Server], open_page: Callable[..., Page], browser: Browser, comes_back: bool
) -> None:
    server = posed(2)
    context = browser.new_context()
    read_the_guide(context, server.run)
    context.add_init_script(WATCHED)
    page = open_page(server, context=context)
    first = seen_pair(page)
    page.evaluate("lose.loseContext()")
    if comes_back:
        page.evaluate("lose.restoreContext()")
        page.wait_for_function("() => document.getElementById('left').width > 256")
    else:
        draw_what_is_wanted(server.run, 2)
        page.wait_for_function("() => document.getElementById('left').width === 256")
    wait_until(lambda: len({left for left, _ in pictures(page, 30)}) > 3)
    page.keyboard.press("ArrowLeft")
    if not comes_back:
        draw_what_is_wanted(server.run, 4)
    assert seen_pair(page) != first
    context.close()
