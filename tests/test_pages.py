"""The pages in a real browser, against a real server in a process of its own."""

import statistics
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from backflip.web.app import STATIC
from pages import (
    Server,
    add_pairs,
    choices,
    events,
    frames_seen,
    free_port,
    make_run,
    read_the_guide,
    seen_pair,
    wait_for_text,
    wait_ready,
    wait_saved,
    wait_until,
)

pytestmark = pytest.mark.browser

# ---- answering


def test_sides_are_exchanged_on_some_showings_and_the_store_hears_what_was_meant(
    shared: Server, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared)
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
    page = open_page(shared)
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
    assert page.inner_text("#learned").startswith("The agent has learned from 56 of the answers so far, last ")
    assert page.inner_text("#last") == "You said can’t tell."


def test_undo_brings_the_pair_back_and_only_the_new_answer_counts(
    shared: Server, open_page: Callable[..., Page]
) -> None:
    page = open_page(shared)
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
    page = open_page(shared)
    skipped = seen_pair(page)
    page.keyboard.press("s")
    other = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: other in choices(shared.run))
    assert skipped not in choices(shared.run)
    page.reload()
    assert seen_pair(page) != skipped


@pytest.mark.slow
def test_a_held_key_is_one_answer_and_a_hasty_one_is_none(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared)
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
    page = open_page(shared)
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


@pytest.mark.slow
def test_both_clips_are_on_one_clock(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(1, frames=40, fps=40, right={"frames": 20, "fps": 20})
    page = open_page(server)
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
    page = open_page(shared, reduced_motion="reduce")
    page.wait_for_selector("body[data-state=showing]")
    assert frames_seen(page, 20)[-1] == [0, 0]
    assert "Play" in page.inner_text("#pause")


def test_the_page_fits_a_phone(shared: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(shared, viewport={"width": 390, "height": 800}, has_touch=True)
    pair = seen_pair(page)
    boxes = {name: page.locator(name).bounding_box() for name in ("#left", "#right", "[data-choice=left]", "#to-run")}
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


@pytest.mark.slow
def test_a_page_that_waits_asks_now_and_then(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    page = open_page(serve(0))
    page.wait_for_function("() => document.body.dataset.state === 'waiting'")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert 0 < len([url for url in asked if "/api/next" in url]) <= 4


@pytest.mark.slow
def test_out_of_pairs_it_waits_and_goes_on_by_itself(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(0)
    page = open_page(server)
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
    add_pairs(server.run, 1)
    assert seen_pair(page) != pair


@pytest.mark.slow
def test_who_gave_the_last_answer_that_is_wanted_hears_that_no_more_will_be_asked(
    tmp_path: Path, serve_run: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    run = make_run(tmp_path / "run", labels=2)
    page = open_page(serve_run(run, lambda: add_pairs(run, 2)))
    for key in ("3", "ArrowLeft"):  # what nobody can tell is no label
        seen_pair(page)
        page.keyboard.press(key)
    page.wait_for_selector("body[data-state=waiting]")
    wait_for_text(page, "#notice-text", "answered everything")
    add_pairs(run, 1)
    seen_pair(page)
    page.keyboard.press("ArrowLeft")
    wait_for_text(page, "#notice-title", "All answers are given; thank you")
    wait_for_text(page, "#notice-text", "There are 3 answers")


@pytest.mark.slow
def test_it_says_that_the_run_is_over_and_goes_on_with_it(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(2)
    page = open_page(server)
    seen_pair(page)
    server.run.tell("run", state="finished", message="5 M steps are done")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-state=over]")
    wait_for_text(page, "#notice-title", "The run is finished")
    wait_for_text(page, "#notice-text", "5 M steps are done. Thank you: every answer of yours is saved")
    server.run.tell("run", state="running")
    page.wait_for_selector("body[data-state=showing]", timeout=5000)
    seen_pair(page)


@pytest.mark.slow
def test_once_the_run_is_over_no_answer_is_taken_back_and_one_taken_back_before_can_be_given_again(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(3)
    page = open_page(server)
    often = (STATIC / "queue.js").read_text().replace("RENEW_MS = 20000", "RENEW_MS = 100")
    page.route("**/static/queue.js", lambda route: route.fulfill(body=often, content_type="text/javascript"))
    page.reload()
    first = seen_pair(page)
    page.keyboard.press("ArrowLeft")
    seen_pair(page)
    page.keyboard.press("u")
    assert seen_pair(page) == first
    server.run.tell("run", state="finished")
    with page.expect_response(lambda reply: "/api/next" in reply.url and '"finished"' in reply.text()):
        pass
    page.wait_for_timeout(100)
    assert seen_pair(page) == first, "it would not be asked again"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-state=over]")
    wait_until(lambda: choices(server.run) == {first: "right"})
    assert not page.is_visible("#undo:not(:disabled)")
    page.keyboard.press("u")
    page.wait_for_timeout(100)
    wait_saved(page)
    assert choices(server.run) == {first: "right"}


@pytest.mark.slow
def test_a_damaged_clip_is_passed_over_and_said(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(3)
    store = server.run.store()
    claims = store.claim("you", 3)
    store.close()
    sheet = server.run.clips / f"{claims[0].left_clip}.png"
    sheet.write_bytes(sheet.read_bytes()[:60])
    page = open_page(server)
    assert seen_pair(page) == claims[1].showing
    assert "could not be shown" in page.inner_text("#last")
    wait_until(lambda: [kind for kind, _ in events(server.run)] == ["skip"])
    page.keyboard.press("ArrowLeft")
    assert seen_pair(page) == claims[2].showing


@pytest.mark.slow
def test_a_browser_that_can_show_nothing_says_so_and_leaves_the_pairs_to_others(
    serve: Callable[..., Server], open_page: Callable[..., Page], browser: Browser
) -> None:
    server = serve(12)
    context = browser.new_context()
    context.add_init_script("self.createImageBitmap = () => Promise.reject(new DOMException('no memory'))")
    read_the_guide(context, server.run)
    page = open_page(server, context=context)
    wait_for_text(page, "#last", "This browser cannot show")
    page.wait_for_timeout(2000)
    assert {kind for kind, _ in events(server.run)} == {"skip"}
    assert len(events(server.run)) <= 4
    with closing(server.run.store()) as store:
        assert len(store.claim("somebody else", 12)) >= 9
    context.close()


@pytest.mark.slow
def test_two_people_in_one_browser_keep_their_answers_apart(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    run, port = make_run(tmp_path / "run"), free_port()
    first, *_ = add_pairs(run, 8)
    store = run.store()
    hers, his = (f"http://127.0.0.1:{port}/label?token={store.invite(name)}" for name in ("ana", "bob"))
    store.close()
    server = Server(run, port)
    server.start()
    server.ready()
    try:
        page = open_page(hers, expected="ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|FAILED)")
        context = page.context
        for name in ("ana", "bob"):
            read_the_guide(context, run, name=name)
        page.reload()
        seen_pair(page)
        wait_ready(page)
        server.stop()
        page.keyboard.press("ArrowLeft")
        seen_pair(page)
        page.close()
        server.start()
        server.ready()
        page = context.new_page()
        page.goto(his)
        seen_pair(page)
        wait_saved(page)
        assert page.is_disabled("#undo"), "what ana said is not his to take back"
        assert page.inner_text("#today") == "0"
        assert choices(run) == {}
        page.close()
        page = context.new_page()
        page.goto(hers)
        seen_pair(page)
        wait_until(lambda: len(choices(run)) == 1)
        assert page.inner_text("#today") == "1"
        store = run.store()
        assert [(p.teacher, p.query) for p, _ in store.preferences()] == [("ana", first)]
        store.close()
    finally:
        server.stop()


@pytest.mark.slow
def test_a_page_whose_browser_has_another_link_now_says_so_and_answers_for_nobody_else(
    tmp_path: Path, serve_run: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    run = make_run(tmp_path / "run")
    with closing(run.store()) as store:
        tokens = [store.invite(name) for name in ("änna", "bob")]
    server = serve_run(run, lambda: add_pairs(run, 12))
    hers, his = (f"http://127.0.0.1:{server.port}/label?token={token}" for token in tokens)
    page = open_page("about:blank", expected="403")
    for name in ("%C3%A4nna", "bob"):
        read_the_guide(page.context, run, name=name)
    page.goto(hers)
    seen_pair(page)
    wait_ready(page)
    other = open_page(his, context=page.context, expected="403")
    seen_pair(other)
    for _ in range(4):  # those that are on the screen or ready
        seen_pair(page)
        page.keyboard.press("ArrowLeft")
    wait_for_text(page, "#notice-title", "This page needs its link again")
    wait_for_text(page, "#notice-text", "Another link was opened in this browser")
    wait_for_text(page, "#saved", "link needed · 4 waiting")
    assert choices(run) == {}, "neither hers nor his"
    other.keyboard.press("ArrowRight")
    wait_until(lambda: len(choices(run)) == 1)
    again = open_page(hers, context=page.context)
    wait_until(lambda: len(choices(run)) == 5)
    wait_saved(page)
    seen_pair(again)
    with closing(run.store()) as store:
        assert sorted(p.teacher for p, _ in store.preferences()) == ["bob"] + 4 * ["änna"]


@pytest.mark.slow
def test_no_answer_is_lost_or_doubled_when_the_server_dies(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(8)
    refused = "ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|FAILED|CONTENT_LENGTH_MISMATCH|INCOMPLETE)"
    page = open_page(server, expected=refused)
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
    page = open_page(server, expected=refused, context=context)
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
