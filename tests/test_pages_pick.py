"""The page where people pick the best of four texts, in a real browser; and what it asks the server for."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from backflip.preferences import Choice
from backflip.rundir import RunDir
from backflip.texts import Text
from backflip.web.app import STATIC
from backflip.web.lending import LENT_SECONDS, Lent
from pages import Server, free_port, make_run, segments_of, wait_for_text, wait_until

QUESTION = "Which is the best end of the story?"
OpenPage = Callable[..., Page]


def add_fours(run: RunDir, prompts: list[str], completions: list[str]) -> list[int]:
    written = [Text(prompt, f"{completion} {i}") for i, prompt in enumerate(prompts) for completion in completions]
    with closing(run.store()) as store:
        found: list[int] = store.add(segments_of(written, 4000)).tolist()
    return found


def better(run: RunDir) -> set[tuple[int, int]]:
    """(better, worse) of all answers that stand."""
    with closing(run.store()) as store:
        return {
            (query.left, query.right) if preference.choice is Choice.LEFT else (query.right, query.left)
            for preference, query in store.preferences()
        }


GONE = "ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|FAILED)"


@contextmanager
def served(run: RunDir, port: int) -> Iterator[Server]:
    server = Server(run, port)
    server.start()
    server.ready()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def picking(tmp_path: Path, serve_run: Callable[..., Server]) -> Callable[..., Server]:
    def start(prompts: list[str], completions: list[str]) -> Server:
        run = make_run(tmp_path / "run", task="stories", question=QUESTION, people={"best_of": 4})
        add_fours(run, prompts, completions)
        return serve_run(run)

    return start


def passages(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(".four .passage", "them => them.map((one) => one.textContent)")
    return found


def shown(page: Page, prompt: str) -> None:
    wait_for_text(page, "#prompt", prompt)
    time.sleep(0.45)  # a key that comes sooner is meant for the four before


@pytest.mark.slow
@pytest.mark.browser
def test_a_key_picks_the_best_of_four_once_and_it_can_be_taken_back(
    picking: Callable[..., Server], open_page: OpenPage
) -> None:
    server = picking(["Once", "Then", "Last"], [" a", " <b>b</b>", " c", ""])
    page = open_page(server)
    shown(page, "Last")
    assert page.url.endswith("/pick")
    assert page.inner_text("#question") == QUESTION
    assert passages(page) == [" a 2", " <b>b</b> 2", " c 2", " 2"]
    page.keyboard.down("2")
    page.keyboard.down("2")  # what a held key sends
    page.keyboard.up("2")
    shown(page, "Then")
    assert better(server.run) == {(10, 9), (10, 11), (10, 12)}
    page.keyboard.press("u")
    shown(page, "Last")
    wait_until(lambda: better(server.run) == set())
    page.keyboard.press("4")
    shown(page, "Then")
    page.keyboard.press("s")
    shown(page, "Once")
    page.click(".four button >> nth=0")
    page.wait_for_selector("#waiting:not([hidden])")
    wait_until(lambda: better(server.run) == {(12, 9), (12, 10), (12, 11), (1, 2), (1, 3), (1, 4)})
    wait_for_text(page, "#total", "6")
    assert Axe().run(page).response["violations"] == []


@pytest.mark.slow
@pytest.mark.browser
def test_two_people_never_get_the_same_four_and_axe_finds_nothing(
    picking: Callable[..., Server], open_page: OpenPage
) -> None:
    server = picking(["Once", "Then"], [" long" * 400, " b", " c", " d"])
    with closing(server.run.store()) as store:
        token = store.invite("ana")
    mine = open_page(server)
    shown(mine, "Then")
    asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/api/four')).length"
    wait_until(lambda: mine.evaluate(asked) >= 2)
    hers = open_page(server.link.split("?")[0] + f"?token={token}")
    hers.wait_for_selector("#waiting:not([hidden])")
    assert passages(hers) == []
    found: list[dict[str, Any]] = Axe().run(mine).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
@pytest.mark.browser
def test_an_unsent_pick_waits_for_its_run_and_its_person(tmp_path: Path, open_page: OpenPage) -> None:
    """Another run, or another person, may be at the same address meanwhile."""
    port = free_port()
    runs = [make_run(tmp_path / name, people={"best_of": 4}) for name in ("first", "second")]
    for run in runs:
        add_fours(run, [f"{run.path.name} {i}" for i in range(3)], [" a", " b", " c", " d"])
    with closing(runs[0].store()) as store:
        hers = f"http://127.0.0.1:{port}/?token={store.invite('ana')}"
    with served(runs[0], port) as server:
        page = open_page(server, expected=GONE)
        shown(page, "first 2")
    page.keyboard.press("2")
    shown(page, "first 1")
    context = page.context
    page.close()
    for run, link in ((runs[1], ""), (runs[0], hers)):
        with served(run, port) as server:
            page = context.new_page()
            page.goto(link or server.link)
            shown(page, run.path.name)
            time.sleep(0.5)
            assert better(run) == set(), "what was not sent is for another run, or by another person"
            page.close()
    with served(runs[0], port) as server:
        page = context.new_page()
        page.goto(server.link)
        shown(page, "first")
        wait_until(lambda: better(runs[0]) == {(10, 9), (10, 11), (10, 12)})
        page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_one_can_skip_as_many_as_one_likes(picking: Callable[..., Server], open_page: OpenPage) -> None:
    prompts = [f"prompt {i:02}" for i in range(60)]
    page = open_page(picking(prompts, [" a", " b", " c", " d"]))
    for prompt in reversed(prompts[5:]):
        shown(page, prompt)
        page.keyboard.press("S")


@pytest.mark.slow
@pytest.mark.browser
def test_who_has_a_quota_is_shown_no_more_and_thanked(picking: Callable[..., Server], open_page: OpenPage) -> None:
    server = picking([f"prompt {i}" for i in range(5)], [" a", " b", " c", " d"])
    with closing(server.run.store()) as store:
        token = store.invite("ana", quota=5)  # each pick is three answers; what has begun is ended
    page = open_page(server.link.split("?")[0] + f"?token={token}")
    for prompt in ("prompt 4", "prompt 3"):
        shown(page, prompt)
        page.keyboard.press("1")
    wait_for_text(page, "#waiting", "That was all; thank you")
    wait_for_text(page, "#waiting", "You have given 6 answers, as many as were asked of you.")
    assert len(better(server.run)) == 6
    page.keyboard.press("u")
    shown(page, "prompt 3")
    page.keyboard.press("s")
    shown(page, "prompt 2")


@pytest.mark.slow
@pytest.mark.browser
def test_it_says_that_the_run_is_over_offers_no_undo_and_goes_on_with_it(
    picking: Callable[..., Server], open_page: OpenPage
) -> None:
    server = picking([f"prompt {i}" for i in range(5)], [" a", " b", " c", " d"])
    page = open_page(server)
    often = (STATIC / "pick.js").read_text().replace("RENEW_MS = 20_000", "RENEW_MS = 100")
    page.route("**/static/pick.js", lambda route: route.fulfill(body=often, content_type="text/javascript"))
    page.reload()
    shown(page, "prompt 4")
    server.run.tell("run", state="finished", message="5 M steps are done")
    page.keyboard.press("2")
    wait_for_text(page, "#waiting", "The run is finished")
    wait_for_text(page, "#waiting", "5 M steps are done. Thank you: every answer of yours is saved.")
    assert page.is_hidden("#four")
    assert page.is_disabled("#undo")
    page.keyboard.press("u")
    page.wait_for_timeout(100)
    assert len(better(server.run)) == 3
    assert Axe().run(page).response["violations"] == []
    server.run.tell("run", state="running")
    page.wait_for_selector("#four:not([hidden])")
    shown(page, "prompt 3")
    page.keyboard.press("u")
    shown(page, "prompt 4")
    server.run.tell("run", state="finished")
    with page.expect_response(lambda reply: "/api/four" in reply.url and '"finished"' in reply.text()):
        pass
    page.wait_for_timeout(100)
    shown(page, "prompt 4")  # it was taken back before, and would not be asked again
    page.keyboard.press("3")
    page.wait_for_selector("#waiting:not([hidden])")
    wait_until(lambda: len(better(server.run)) == 3)


def test_four_are_lent_to_one_person_for_a_while() -> None:
    lent, four = Lent(), frozenset({1, 2, 3, 4})
    assert lent.lend(four, "ana", 0.0)
    assert lent.lend(four, "ana", 1.0)
    assert not lent.lend(four, "ben", 1.0 + LENT_SECONDS - 1)
    assert lent.lend(frozenset({5, 6, 7, 8}), "ben", 2.0)
    assert lent.lend(four, "ben", 1.0 + LENT_SECONDS + 1)


def test_the_best_of_four_is_for_texts_with_as_many_completions() -> None:
    from dataclasses import replace

    from backflip.experiments import settings_for
    from backflip.teachers.people import PeopleConfig
    from backflip.tuning import TuneConfig

    four = PeopleConfig(best_of=4)
    replace(settings_for("sentiment"), people=four)
    with pytest.raises(ValueError, match="best_of is 3; people choose between 2, or pick the best of 4"):
        PeopleConfig(best_of=3)
    with pytest.raises(ValueError, match="for text tasks with as many completions"):
        replace(settings_for("hopper"), people=four)
    with pytest.raises(ValueError, match="for text tasks with as many completions"):
        replace(settings_for("sentiment", tune=TuneConfig(completions=2)), people=four)
