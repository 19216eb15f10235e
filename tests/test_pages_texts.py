"""The labelling page where a run's clips are texts, in a real browser."""

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from backflip.clip_rewards import ClipRewards
from backflip.rundir import RunDir
from pages import (
    Server,
    add_texts,
    choices,
    make_run,
    seen_pair,
    wait_for_text,
    wait_ready,
    wait_saved,
    wait_until,
)

pytestmark = pytest.mark.browser
OpenPage = Callable[..., Page]
QUESTION = "Which is the better end of the story? If both are as good: which is shorter?"
PROMPT = "The lamp went out, and"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
HOSTILE = [
    "<script>document.title = 'taken over'</script><img src=x onerror=alert(1)>",
    "  two\n\n\tlines &amp; \r\n spaces  ",
    "\u202edesrever\u2066 \u200b\u200b\ufeff\x00\x07\x1b[31m",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, then English",
    "Z\u0351\u036b\u0343" * 300,
    "x" * 5000,
    "word " * 2000,
    "",
]


def plain(count: int) -> list[tuple[str, str, str]]:
    return [(PROMPT, f" nobody spoke {i}.", f" all of them spoke at once, {i} times.") for i in range(count)]


@pytest.fixture
def reading(tmp_path: Path, serve_run: Callable[..., Server]) -> Callable[..., Server]:
    """reading(pairs): the server of a new run with these texts to compare."""

    def start(pairs: list[tuple[str, str, str]]) -> Server:
        run = make_run(tmp_path / "run", task="stories", question=QUESTION)
        add_texts(run, pairs)
        return serve_run(run)

    return start


def sides(page: Page) -> list[str]:
    """The completions on the screen, letter by letter."""
    found: list[str] = page.eval_on_selector_all(".passage", "them => them.map((one) => one.textContent)")
    return found


def findings(page: Page) -> list[str]:
    page.evaluate("document.getAnimations().forEach((one) => one.cancel())")  # half a colour has no contrast
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def wide(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def answered(run: RunDir) -> list[dict[str, Any]]:
    connection = sqlite3.connect(run.path / "run.db")
    try:
        rows = connection.execute("select details from event where kind in ('left', 'right', 'equal')").fetchall()
    finally:
        connection.close()
    return [json.loads(row[0]) for row in rows]


def test_texts_are_answered_by_the_same_keys_each_answer_once(
    reading: Callable[..., Server], open_page: OpenPage
) -> None:
    server = reading(plain(8))
    page = open_page(server)
    given: dict[int, str] = {}
    wait_ready(page)
    assert page.inner_text("#prompt") == PROMPT
    short, long = sorted(page.locator("figcaption").all_inner_texts(), key=len)
    assert short == "3 words · 16 characters"
    assert long == "8 words (+5) · 36 characters (+20)"
    assert not page.is_visible(".playing")
    for key, choice in {"ArrowLeft": "left", "ArrowRight": "right", "ArrowUp": "equal", "3": "incomparable"}.items():
        pair = seen_pair(page)
        for _ in range(3):
            page.keyboard.press(" ")  # it scrolls, as everywhere
        given[pair] = choice
        page.keyboard.down(key)
        page.keyboard.down(key)  # what a held key sends
        page.keyboard.up(key)
    undone = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    seen_pair(page)
    page.keyboard.press("u")
    assert seen_pair(page) == undone
    page.keyboard.press("s")
    seen_pair(page)
    page.keyboard.press("f")
    wait_until(lambda: choices(server.run) == given)
    wait_saved(page)
    details = answered(server.run)[0]
    assert details["by"] == "key"
    assert details["prefetched"] is True or details["prefetched"] is False
    assert details.keys().isdisjoint({"speed", "paused", "loops"})


@pytest.mark.slow
def test_hostile_texts_are_shown_letter_by_letter_and_stay_in_their_box(
    reading: Callable[..., Server], open_page: OpenPage
) -> None:
    server = reading([(f"Prompt {i}\n<b>bold</b>", text, " plain") for i, text in enumerate(HOSTILE)])
    page = open_page(server)
    seen = set()
    for number in range(len(HOSTILE)):
        seen_pair(page)
        seen |= set(sides(page))
        assert not wide(page)
        assert page.evaluate("[...document.querySelectorAll('.clip')].every((one) => one.offsetHeight < innerHeight)")
        assert (
            page.evaluate("document.querySelectorAll('.passage *:not(span), .passage script, #prompt b').length") == 0
        )
        assert page.evaluate(
            "[...document.querySelectorAll('.passage')].every((one) => one.scrollWidth <= one.clientWidth)"
        )
        if number < len(HOSTILE) - 1:
            page.keyboard.press("ArrowLeft")
    assert seen == {*HOSTILE[:-1], "(nothing)", " plain"}
    assert page.title() == "stories · backflip"


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_axe_finds_nothing_serious_with_texts(
    reading: Callable[..., Server], open_page: OpenPage, how: dict[str, Any]
) -> None:
    server = reading([("A prompt. " * 200, " long" * 2000, "")])
    page = open_page(server, fresh=True, **how)
    page.wait_for_selector("#guide[open]")
    assert page.inner_text("#guide-text").startswith("Choose the text")
    assert "frame" not in page.inner_text("#guide-list")
    states = {"guide": findings(page)}
    page.click("#guide-practice")
    wait_for_text(page, "#practice-title", "1 of 5")
    assert page.inner_text("#question") == "For practice: which text says more about the weather?"
    time.sleep(0.45)
    page.click("[data-choice=left]")
    wait_for_text(page, "#practice-text", "Yes")
    states["practice"] = findings(page)
    page.click("#practice-leave")
    seen_pair(page)
    states["showing"] = findings(page)
    assert not wide(page)
    assert states == {state: [] for state in states}


@pytest.mark.slow
def test_a_long_text_scrolls_by_keys_and_by_finger_and_a_short_one_is_swiped(
    reading: Callable[..., Server], open_page: OpenPage
) -> None:
    server = reading([(PROMPT, " long" * 2000, " short")])
    page = open_page(server, **PHONE)
    seen_pair(page)
    page.focus(".passage.scrolls")
    page.keyboard.press("PageDown")
    page.wait_for_function("() => document.querySelector('.passage.scrolls').scrollTop > 0")
    touched = page.eval_on_selector_all(".passage", "them => them.map((one) => getComputedStyle(one).touchAction)")
    assert sorted(touched) == ["auto", "pan-y pinch-zoom"]
    assert choices(server.run) == {}


@pytest.mark.slow
def test_texts_that_go_on_from_something_else_each_begin_with_it(
    reading: Callable[..., Server], open_page: OpenPage
) -> None:
    server = reading([("One", " and two", " and three")])
    page = open_page(server)
    seen_pair(page)
    page.evaluate(
        """async () => {
          const { Texts } = await import("/static/texts.js");
          const figures = ["left-clip", "right-clip"].map((id) => document.getElementById(id));
          figures.forEach((figure) => figure.querySelectorAll(".passage, figcaption").forEach((one) => one.remove()));
          const text = (prompt) => ({ mime: "text/plain", prompt, completion: " x" });
          new Texts(figures, document.getElementById("prompt")).show([text("One"), text("Two")]);
        }"""
    )
    assert sides(page) == ["One x", "Two x"]
    assert page.is_hidden("#prompt")


@pytest.mark.slow
def test_the_next_texts_are_on_the_screen_with_the_key(reading: Callable[..., Server], open_page: OpenPage) -> None:
    server = reading(plain(10))
    page = open_page(server)
    swaps = []
    for _ in range(3):
        seen_pair(page)
        wait_ready(page)
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => performance.getEntriesByName('swap').length === 1")
        swaps.append(page.evaluate("performance.getEntriesByName('swap')[0].duration"))
        page.evaluate("performance.clearMeasures('swap')")
    assert sorted(swaps)[1] < 60


@pytest.mark.slow
def test_the_run_page_shows_a_text_whole_with_what_each_member_gives_for_it(
    reading: Callable[..., Server], open_page: OpenPage
) -> None:
    server = reading([(PROMPT * 9, " one", " two")])
    ids = np.arange(1, 3)
    rewards = np.array([[[1.0], [2]], [[3], [4]]], np.float32)
    ClipRewards(ids, np.ones(2, np.int64), rewards, 1, 10).save(server.run.clip_rewards)
    page = open_page(server)
    seen_pair(page)
    page.goto(page.url.replace("/label", "/run"))
    page.get_by_role("tab", name="Completions").click()
    wait_for_text(page, "#panel-clips", "2 completions · by r̂ #1")
    page.click(".clip-card >> nth=0")
    page.wait_for_selector("dialog.closeup[open]")
    wait_for_text(page, "dialog[open] .keys", "r̂ by member: 2 · 4")
    assert page.text_content("dialog[open] .film") == PROMPT * 9 + " two"
    assert not page.is_visible("dialog[open] .controls")
    assert findings(page) == []
