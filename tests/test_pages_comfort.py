"""What makes the labelling page one to live in: keys, playing, practice, swiping, and what it keeps to itself."""

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from backflip.preferences import Choice
from backflip.rundir import RunDir
from pages import Server, add_pairs, choices, frames_seen, seen_pair, wait_for_text, wait_saved, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COUNT_TONES = """() => {
  window.tones = 0;
  const start = OscillatorNode.prototype.start;
  OscillatorNode.prototype.start = function (...when) { tones += 1; start.apply(this, when); };
}"""
OpenPage = Callable[..., Page]
Serve = Callable[..., Server]


def logged(run: RunDir) -> list[dict[str, Any]]:
    """Every event that the store has, with its details."""
    connection = sqlite3.connect(run.path / "run.db")
    connection.row_factory = sqlite3.Row
    try:
        rows = connection.execute("select * from event order by seq").fetchall()
    finally:
        connection.close()
    return [{**dict(row), **json.loads(row["details"])} for row in rows]


# ---- keys


def test_numbers_answer_too_and_what_belongs_to_the_browser_does_not(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    given = {}
    for key, choice in {"1": "left", "2": "equal", "3": "incomparable", "4": "right"}.items():
        given[seen_pair(page)] = choice
        page.keyboard.press(key)
    pair = seen_pair(page)
    for key in ("Alt+2", "Control+1", "Meta+4", "x", "Tab"):
        page.keyboard.press(key)
    wait_until(lambda: given.items() <= choices(shared.run).items())
    assert seen_pair(page) == pair


def test_keys_are_chosen_by_pressing_them_kept_refused_where_taken_and_put_back(
    shared: Server, open_page: OpenPage
) -> None:
    page = open_page(shared)
    pair = seen_pair(page)
    page.keyboard.press("?")
    page.click("#guide-keys")
    page.click("[data-slot=left-0]")
    page.keyboard.press("s")
    assert page.inner_text("#keys-said") == (
        "S is already there for “Skip”; give that another key first, or press another one here."
    )
    page.keyboard.press("F5")
    assert "belongs to the browser" in page.inner_text("#keys-said")
    page.keyboard.press("J")  # it still waits; Shift or not is one key
    assert (page.inner_text("[data-slot=left-0]"), page.inner_text("#keys-said")) == ("J", "J it is.")
    page.click("[data-slot=left-1]")
    page.keyboard.press("Delete")
    assert page.inner_text("[data-slot=left-1]") == "none"
    page.get_by_text("Done").click()
    assert page.inner_text("[data-key=left]") == "J"
    for key in ("ArrowLeft", "1"):
        page.keyboard.press(key)
    assert seen_pair(page) == pair, "they mean nothing any more"
    page.keyboard.press("j")
    wait_until(lambda: choices(shared.run).get(pair) == "left")
    page.reload()
    pair = seen_pair(page)
    assert page.inner_text("[data-key=left]") == "J"
    page.click("#help")
    page.click("#guide-keys")
    page.click("#keys-reset")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("u")
    assert seen_pair(page) == pair, "single keys can be turned off"
    assert not page.is_visible("[data-key=left]")
    page.click("[data-choice=left]")
    assert seen_pair(page) != pair


# ---- playing


def test_frames_go_one_by_one_and_the_speed_is_chosen_and_stored(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    seen_pair(page)
    page.keyboard.press("r")
    page.keyboard.press(" ")
    page.keyboard.press("r")
    assert frames_seen(page, 1) == [[0, 0]]
    seen = []
    for key in (".", ".", ",", ",", ",", "."):
        page.keyboard.press(key)
        seen += frames_seen(page, 1)
    assert seen == [[1, 1], [2, 2], [1, 1], [0, 0], [29, 29], [0, 0]]
    page.keyboard.down(".")
    for _ in range(4):
        page.keyboard.down(".")  # held: it goes on
    assert frames_seen(page, 1) == [[5, 5]]
    page.keyboard.up(".")
    for _ in range(3):
        page.keyboard.press("-")
    assert page.get_attribute("[data-speed='0.25']", "aria-pressed") == "true"
    page.keyboard.press(" ")
    before = frames_seen(page, 1)[0][0]
    page.wait_for_timeout(600)
    assert 1 <= frames_seen(page, 1)[0][0] - before <= 6  # 20 frames a second would be 12
    pair = seen_pair(page)
    page.keyboard.press("ArrowUp")
    wait_until(lambda: pair in choices(shared.run))
    event = logged(shared.run)[-1]
    assert (event["speed"], event["paused"], event["by"], event["view"]) == (0.25, False, "key", "beside")


def test_an_answer_says_how_the_pair_was_looked_at(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    seen_pair(page)
    page.keyboard.press("ArrowUp")
    page.wait_for_function("() => performance.getEntriesByName('swap').length === 1")
    pair = seen_pair(page)
    page.click("#help")
    page.wait_for_timeout(700)  # reading the guide is not looking at the clips
    page.click("#guide-start")
    page.click("[data-choice=right]")
    wait_until(lambda: pair in choices(shared.run))
    event = logged(shared.run)[-1]
    assert (event["by"], event["prefetched"], event["paused"], event["speed"]) == ("button", True, False, 1)
    assert 0.4 <= event["seconds"] < 1.1
    assert 0 < event["loops"] < 1
    assert 0 <= event["swap_ms"] < 1000
    assert event["instruction"] is None


def test_what_could_not_be_measured_is_null(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    found = page.evaluate(
        """async () => {
          const { Look } = await import("/static/look.js");
          // a clock jumped
          const player = { moves: true, painted: performance.now() + 1e12, loops: NaN, speed: 1, paused: false };
          const look = new Look(player);
          look.begin(true);
          look.swapped(-3);
          const jumped = look.facts("key");
          player.painted = performance.now() - 5e9;
          return [jumped, look.facts("key").seconds, look.enough];
        }"""
    )
    assert found[0] | {"by": "key"} == {
        "seconds": None,
        "loops": None,
        "speed": 1,
        "paused": False,
        "by": "key",
        "view": "beside",
        "prefetched": True,
        "swap_ms": None,
    }
    assert found[1:] == [None, True], "and is no reason to refuse an answer"


# ---- skip, flag, undo


def test_skip_and_flag_are_not_answers_and_both_can_be_taken_back(shared: Server, open_page: OpenPage) -> None:
    before = len(logged(shared.run))
    page = open_page(shared)
    first = seen_pair(page)
    page.keyboard.press("f")
    assert page.inner_text("#last").startswith("Flagged; nobody is shown that pair any more.")
    second = seen_pair(page)
    page.keyboard.press("s")
    wait_for_text(page, "#undo-what", "(skip, ")
    seen_pair(page)
    page.keyboard.press("u")
    wait_for_text(page, "#last", "Taken back: you had skipped it.")
    assert seen_pair(page) == second
    page.keyboard.press("u")
    wait_for_text(page, "#last", "Taken back: you had flagged it.")
    assert seen_pair(page) == first
    assert page.inner_text("#today") == "0"
    page.keyboard.press("ArrowUp")
    wait_until(lambda: choices(shared.run).get(first) == "equal")
    assert [event["kind"] for event in logged(shared.run)[before:]] == ["flag", "skip", "undo", "undo", "equal"]
    assert page.inner_text("#today") == "1"


# ---- the guide and practice


def test_the_guide_comes_first_and_again_when_the_instructions_change(serve: Serve, open_page: OpenPage) -> None:
    server = serve(4)
    page = open_page(server, fresh=True)
    page.wait_for_selector("#guide[open]")
    assert page.inner_text("#guide-title") == "Before you begin"
    assert "Judge only what you see" in page.inner_text("#guide-text")
    page.wait_for_selector("body[data-state=showing]")
    page.wait_for_timeout(450)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")  # Start has the focus
    pair = seen_pair(page)
    assert choices(server.run) == {}
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: list(choices(server.run)) == [pair])
    seen_pair(page)
    store = server.run.store()
    text = "<img src=x onerror=alert(1)>\nLook at the landing."
    version = store.instruct(text).id
    store.close()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#guide[open]")
    assert page.inner_text("#guide-title") == "The instructions have changed"
    assert page.inner_text("#guide-text") == text
    page.keyboard.press("Escape")
    assert page.inner_text("#instruction") == f"Instructions, v{version}"
    page.reload()
    seen_pair(page)
    assert not page.is_visible("#guide")


def test_what_begins_the_answering_is_in_sight_on_a_phone(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared, fresh=True, viewport={"width": 390, "height": 664}, has_touch=True, is_mobile=True)
    page.wait_for_selector("#guide[open]")
    expect(page.locator("#guide-start")).to_be_in_viewport(ratio=1)
    expect(page.locator("#guide-practice")).to_be_in_viewport(ratio=1)


def test_without_explained_pairs_one_practises_on_a_ball_and_nothing_is_stored(
    shared: Server, open_page: OpenPage
) -> None:
    before = len(logged(shared.run))
    page = open_page(shared, fresh=True)
    page.click("#guide-practice")
    page.wait_for_selector("body[data-state=practice]")
    right = ["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown"]
    for number, key in enumerate(right, 1):
        wait_for_text(page, "#practice-title", f"Practice, {number} of 5")
        page.wait_for_timeout(470)
        page.keyboard.press("ArrowLeft" if number == 3 else key)
        verdict = page.inner_text("#practice-text")
        assert verdict.startswith("Here it is “right”." if number == 3 else "Yes.")
        assert len(verdict) > 60, "it says why"
        assert page.locator("[data-choice].answer").count() == 1
        page.keyboard.press("Enter")
    pair = seen_pair(page)
    assert page.inner_text("#last") == "From here on your answers count."
    assert page.inner_text("#question").startswith("Which of the two")
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: choices(shared.run).get(pair) == "left")
    assert len(logged(shared.run)) == before + 1


def test_explained_pairs_are_what_one_practises_on_and_no_part_of_d(serve: Serve, open_page: OpenPage) -> None:
    server = serve(2)
    store = server.run.store()
    (gold,) = add_pairs(server.run, 1)
    store.set_gold(gold, Choice.EQUAL, "Both <b>lie</b> on the floor.")
    page = open_page(server, fresh=True)
    page.click("#guide-practice")
    wait_for_text(page, "#practice-title", "Practice, 1 of 1")
    page.wait_for_timeout(550)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#practice-text") == "Here it is “the same”. Both <b>lie</b> on the floor."
    wait_until(lambda: [event["purpose"] for event in logged(server.run)] == ["practice"])
    page.click("#practice-next")
    seen_pair(page)
    wait_saved(page)
    assert (store.counts().labels, store.comparisons(), page.inner_text("#today")) == (0, None, "0")
    page.click("#help")
    page.click("#guide-practice")
    wait_for_text(page, "#practice-title", "Practice, 1 of 1")
    page.click("#practice-leave")
    seen_pair(page)
    store.close()


# ---- phones


def swipe(page: Page, dx: int, dy: int, fingers: int = 1) -> None:
    """Put fingers on the clips, move them and lift them."""
    box = page.locator("#stage").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def at(share: float) -> list[dict[str, float]]:
        return [{"x": x + 30 * i + share * dx, "y": y + share * dy, "id": i} for i in range(fingers)]

    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at(0)})
    for share in (0.3, 0.7, 1.0):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at(share)})
    if fingers == 1 and abs(dx) + abs(dy) > 90 and min(abs(dx), abs(dy)) < 20:
        assert page.is_visible("#swipe"), "it says what it would be"
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    touch.detach()


def test_swipes_answer_on_a_phone_and_nothing_else_does(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared, viewport={"width": 390, "height": 720}, has_touch=True, is_mobile=True)
    for button in page.locator("[data-choice]").all():
        box = button.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 44
    given = {}
    for (dx, dy), choice in {
        (-120, 8): "left",
        (120, -8): "right",
        (5, -120): "equal",
        (0, 120): "incomparable",
    }.items():
        given[seen_pair(page)] = choice
        swipe(page, dx, dy)
    pair = seen_pair(page)
    swipe(page, 30, 10)  # a tap
    swipe(page, 90, 90)  # neither
    swipe(page, 120, 0, fingers=2)
    assert seen_pair(page) == pair
    assert not page.is_visible("#swipe")
    wait_until(lambda: given.items() <= choices(shared.run).items())
    assert {(event["by"], event["view"]) for event in logged(shared.run)[-4:]} == {("swipe", "stacked")}


# ---- long sessions


def test_a_break_is_suggested_after_twenty_minutes_of_answering_and_not_of_absence(
    shared: Server, open_page: OpenPage
) -> None:
    page = open_page(shared)
    found = page.evaluate(
        """async () => {
          const { Rest } = await import("/static/rest.js");
          const minutes = (gaps) => {
            const rest = new Rest();
            let now = 0;
            return gaps.map((gap) => rest.answered((now += 60e3 * gap)));
          };
          const steady = minutes(Array(82).fill(0.5)); // answer n comes after n / 2 minutes, from the first on
          const rested = minutes([...Array(39).fill(0.5), 6, ...Array(39).fill(0.5)]);
          const slow = minutes(Array(12).fill(4)); // of each four minutes, one counts
          return [steady.flatMap((due, i) => (due ? [i] : [])), rested.includes(true), slow.includes(true)];
        }"""
    )
    assert found == [[40, 80], False, False]


def test_the_chime_is_off_until_wanted_then_kept_and_rings(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    page.evaluate(COUNT_TONES)
    page.click("#help")
    assert not page.is_checked("#guide [data-setting=chime]")
    page.check("#guide [data-setting=chime]")
    assert page.evaluate("tones") == 2
    page.reload()
    seen_pair(page)
    page.click("#help")
    assert page.is_checked("#guide [data-setting=chime]")
    page.uncheck("#guide [data-setting=chime]")


def test_the_chime_calls_back_who_waited_for_long(serve: Serve, open_page: OpenPage) -> None:
    server = serve(1)
    page = open_page(server)
    seen_pair(page)
    page.click("#help")
    page.check("#guide [data-setting=chime]")
    page.click("#guide-start")
    page.evaluate(COUNT_TONES)
    seen_pair(page)
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("body[data-state=waiting]")
    page.wait_for_timeout(3200)
    assert page.evaluate("tones") == 0
    add_pairs(server.run, 1)
    seen_pair(page)
    assert page.evaluate("tones") == 2
    assert page.inner_text("#last") == "There are pairs again."


# ---- what is on its way


def test_answers_that_came_too_fast_or_found_the_store_busy_are_sent_again(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared, expected="429|503|404")
    replies = [(429, {"retry-after": "1"}), (503, {}), (404, {})]  # the last from a proxy, say
    sent = []

    def refuse(route: Route) -> None:
        sent.append(json.loads(route.request.post_data or "{}")["uuid"])
        if replies:
            status, headers = replies.pop(0)
            route.fulfill(status=status, headers=headers, body="Later.")
        else:
            route.continue_()

    page.route("**/api/answer", refuse)
    states: set[str] = set()
    given = {}
    for _ in range(2):
        given[seen_pair(page)] = "left"
        page.keyboard.press("ArrowLeft")
    wait_for_text(page, "#saved", "2 waiting")
    states.add(page.inner_text("#saved"))
    wait_saved(page)
    assert given.items() <= choices(shared.run).items()
    assert states == {"2 waiting"}
    assert len(set(sent[:4])) == 1, "under the same UUID"
    assert len(sent) == 5


def test_a_browser_that_keeps_nothing_warns_before_an_answer_would_be_lost(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared, expected="ERR_FAILED")
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('no'); }; }")
    page.route("**/api/answer", lambda route: route.abort(), times=2)
    pair = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    warned: list[str] = []

    def stay(dialog: Dialog) -> None:
        warned.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    wait_for_text(page, "#saved", "offline")
    page.close(run_before_unload=True)
    wait_saved(page)
    assert (warned, choices(shared.run)[pair]) == (["beforeunload"], "left")


# ---- what the page keeps to itself


def test_nothing_tells_a_labeller_what_r_hat_or_the_policy_make_of_it(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    seen_pair(page)
    words = page.inner_text("body")
    assert not re.search(r"r̂|reward|predict|step|1\.23|#14|repeat|gold", words, re.IGNORECASE), words
