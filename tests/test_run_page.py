"""The run page in a real browser: what its tabs show, what they change, and that updates disturb nobody."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from backflip.clip_rewards import ClipRewards
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store, new_uuid
from pages import Server, draw_clip, free_port, make_run

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)> & co"
PAIRS = 14
TABS = ["overview", "labels", "reward", "clips", "pairs", "annotators", "export"]


# ---- a run with something to see


def fill(run: RunDir) -> None:
    """Pairs that r̂ predicted with 0.6, 0.62 ... 0.86 for the left; every other answer disagreed."""
    n = 2 * PAIRS
    with closing(run.store()) as store:
        segments = Segments(
            ids=np.full(n, -1, np.int64),
            observations=np.zeros((n, 5, 2), np.float32),
            actions=np.zeros((n, 5, 1), np.float32),
            true_rewards=np.zeros((n, 5), np.float32),
            states=np.zeros((n, 5, 0), np.float32),
            policy_steps=np.arange(1, n + 1) * 100_000,
            lengths=np.full(n, 5, np.int64),
        )
        ids = store.add(segments)
        p_left = np.tile(np.float32(0.6) + np.arange(PAIRS, dtype=np.float32) / 50, (3, 1))
        asked = store.ask(ids.reshape(-1, 2), p_left, 500_000)
        with store.transaction():
            for number in ids.tolist():
                store.set_clip(number, draw_clip(run, number, frames=10, fps=20))
        store.mark_drawn()
        for i, query in enumerate(asked):
            choice = Choice.RIGHT if i % 2 else Choice.LEFT
            answer(store, query.id, choice, "ana" if i % 4 < 2 else HOSTILE)
        store.invite("ana", quota=20)
        store.instruct("Which one flips?")
    # Two members; segment i gets i at each of its five steps from one, and 0 from the other.
    rewards = np.stack([np.tile(ids[:, None], (1, 5)), np.zeros((n, 5))]).astype(np.float32)
    ClipRewards(ids, np.full(n, 5, np.int64), rewards, 7, 2_000_000).save(run.clip_rewards)
    run.tell("fit", version=7, comparisons=PAIRS)


def answer(store: Store, query: int, choice: Choice, teacher: str) -> None:
    store.answer(Preference(new_uuid(), query, choice, teacher, 2.5))


def measure(run: RunDir, steps: range) -> None:
    for step in steps:
        run.record(
            step * 1000,
            {
                "act/predicted_return": step**0.5,
                "act/steps_per_second": 9000.0 + step % 7,
                "fit/train_loss": 0.3 + 1 / (step + 1),
                "fit/validation_loss": 0.4 + 1 / (step + 1),
                "fit/loss_ratio": 1.31,
                "fit/l2": 0.0003,
                "fit/accuracy": 0.87,
                "ask/agreement": 0.78,
                "ask/confidence": 0.81,
                "ask/labels": step,
                "ask/disagreement": 0.08,
                "ask/disagreement_candidates": 0.03,
            },
        )
    told = {"steps": steps[-1] * 1000, "total_steps": 1_000_000, "steps_per_second": 9000.0, "reward_version": 7}
    run.tell("act", state="training", **told)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = make_run(tmp_path_factory.mktemp("run-page") / "run")
    server = Server(run, free_port())
    server.start()
    fill(run)
    measure(run, range(1, 40))
    server.ready()
    yield server
    server.stop()


@pytest.fixture
def visit(served: Server, open_page: Callable[..., Page]) -> Callable[..., Page]:
    """visit(tab="overview", **options): the run page, with that tab in front, and a clock that can be put forward."""

    def go(tab: str = "overview", **options: Any) -> Page:
        page = open_page(served, **options)
        page.clock.install()
        page.goto(f"http://127.0.0.1:{served.port}/run#/{tab}")
        expect(page.locator("#state")).to_have_text(re.compile("running|no news"))
        return page

    return go


def update(page: Page) -> None:
    """Let it be time to ask for what is new."""
    page.clock.fast_forward(2100)


def paint(chart: Any) -> str:
    """What a chart shows."""
    script = "(chart) => new Promise(requestAnimationFrame).then(() => chart.querySelector('canvas').toDataURL())"
    found: str = chart.evaluate(script)
    return found


# ---- tabs


def test_numbers_and_curves_are_those_of_the_run(visit: Callable[..., Page]) -> None:
    page = visit()
    expect(page.locator("#steps")).not_to_have_text("–")
    numbers = {name: page.inner_text(f"#{name}") for name in ("speed", "version", "ratio", "accuracy", "labels")}
    assert numbers == {"speed": "9000/s", "version": "#7", "ratio": "1.31", "accuracy": "78 %", "labels": str(PAIRS)}
    assert page.inner_text("#steps-more") == "steps so far", "people end the run: there is nothing to count down to"
    assert "within 1.1–1.5" in page.inner_text("#ratio-more")
    assert page.inner_text("#accuracy-more") == "on fresh pairs · 87 % held out"
    assert page.locator("#panel-overview .chart canvas").count() == 4
    page.click("#tab-reward")
    expect(page.locator("#panel-reward .chart canvas")).to_have_count(6)
    expect(page.locator(".reliability")).to_have_attribute("aria-label", re.compile("came true 50 % of 4"))
    assert page.inner_text("#panel-reward .chart >> nth=1").startswith("Validation / training loss")
    page.click("#tab-labels")
    expect(page.locator("#label-tiles .tile >> nth=2")).to_contain_text("2.5 s")
    expect(page.locator("#given tbody tr")).to_have_count(8)


def test_what_is_not_there_yet_is_said_as_it_is(
    tmp_path: Path, serve_run: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    run = make_run(tmp_path / "run", teacher="oracle", mode="in_turn")
    server = serve_run(run)
    run.record(1000, {"fit/accuracy": 0.87, "ask/disagreement": 0.1, "ask/disagreement_candidates": 0.02})
    page = open_page(server)
    expect(page.locator("#accuracy-more")).to_have_text("on fresh pairs: none yet · 87 % held out")
    expect(page.locator("#accuracy")).to_have_text("–")
    empty = page.locator("#overview-charts .chart:visible .empty:visible")
    expect(empty).to_have_text(
        [
            "Appears when the policy is measured first since there is an r̂, or with the first true return.",
            "Appears with the first answers to pairs that were asked since there is an r̂.",
            "Appears with the first pairs.",
            "Appears when the policy is measured first.",
        ]
    )
    page.click("#tab-reward")
    expect(page.locator("#panel-reward .chart:visible")).to_have_count(8)
    assert "people" not in page.inner_text("#panel-reward"), "an oracle answers"
    page.click("#tab-pairs")
    expect(page.locator("#panel-pairs .empty")).to_have_text("No answers to pairs that were asked since there is an r̂.")
    page.click("#panel-pairs >> text=newest")
    expect(page.locator("#panel-pairs .empty")).to_have_text("No answers yet.")


def test_tabs_go_by_keys_by_address_and_back(visit: Callable[..., Page]) -> None:
    page = visit("pairs")
    expect(page.locator("#tab-pairs")).to_have_attribute("aria-selected", "true")
    expect(page.locator("[role=tabpanel]:visible")).to_have_count(1)
    page.focus("#tab-pairs")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-annotators")).to_be_focused()
    expect(page.locator("#panel-annotators")).to_be_visible()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-overview")).to_be_focused()
    page.go_back()
    expect(page.locator("#panel-export")).to_be_visible()
    assert page.locator("[role=tab][tabindex='0']").count() == 1


def test_updates_touch_neither_zoom_nor_scroll_nor_selection(served: Server, visit: Callable[..., Page]) -> None:
    page = visit("labels")
    page.wait_for_selector("#given td")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#given tr:nth-child(3) td.name'))")
    chosen = page.evaluate("String(getSelection())")
    assert chosen
    chart = page.locator("#label-charts .chart >> nth=0")
    box = chart.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 40, steps=3)
    page.mouse.up()
    page.mouse.move(1, 1)
    expect(chart.get_by_text("show all")).to_be_visible()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#given tr:nth-child(3) td.name'))")
    page.evaluate("scrollTo(0, 120)")
    zoomed = paint(chart)
    for part in range(3):
        measure(served.run, range(40 + 340 * part, 380 + 340 * part))
        update(page)
        expect(page.locator("#panel-overview #steps")).to_have_text(re.compile(f"^{379 + 340 * part} k|1.06 M$"))
    assert "1059" in page.inner_text("#label-charts .chart >> nth=0")
    assert paint(chart) == zoomed
    assert page.evaluate("[scrollY, String(getSelection())]") == [120, chosen]
    chart.get_by_text("show all").click()
    assert paint(chart) != zoomed
    page.click("[data-axis=seconds]")


@pytest.mark.slow
def test_a_paused_page_asks_for_nothing(served: Server, visit: Callable[..., Page]) -> None:
    page = visit()
    page.click("#live")
    expect(page.locator("#live")).to_have_text("paused")
    page.wait_for_timeout(200)  # what was under way has come
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(30_000)
    page.wait_for_timeout(200)
    assert asked == []
    with page.expect_response("**/api/run*"):
        page.click("#live")
    assert [re.sub(r"=\w+", "=N", url.rpartition("/")[2]) for url in asked] == ["run?since=N&mark=N"], (
        "only what is new"
    )


# ---- clips


@pytest.mark.slow
def test_clips_come_sorted_move_under_the_pointer_and_open(visit: Callable[..., Page]) -> None:
    page = visit("clips")
    cards = page.locator(".clip-card")
    expect(cards).to_have_count(24)
    assert cards.first.inner_text().split() == ["+70", "±", "70", "step", "2.8", "M"], "(5·28 + 0) / 2"
    red = "(canvas) => Math.round(canvas.getContext('2d').getImageData(1, 1, 1, 1).data[0] / 4)"
    canvas = cards.first.locator("canvas")
    page.wait_for_function(
        "() => document.querySelector('.clip-card canvas').getContext('2d').getImageData(1,1,1,1).data[0] > 10"
    )
    assert canvas.evaluate(red) == 5, "the frame in the middle"
    cards.first.hover()
    seen = set()
    for _ in range(30):
        page.wait_for_timeout(20)
        seen.add(canvas.evaluate(red))
    assert len(seen) > 3
    page.click("#panel-clips >> text=lowest r̂")
    expect(cards.first).to_contain_text("+2.5")
    page.fill("[aria-label='from policy step']", "2.7 M")
    page.keyboard.press("Enter")
    expect(cards).to_have_count(2)
    cards.first.dblclick()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("Clip 27")
    page.wait_for_timeout(300)
    expect(dialog.locator("figure")).to_have_count(1)
    expect(dialog).to_contain_text("r̂ 67.5 ± 68 · 5 steps")
    expect(dialog).to_contain_text("Pair 14: left of clip 28.")
    assert dialog.locator(".keys .key").all_inner_texts() == ["member 1", "member 2", "mean"]
    page.wait_for_function("() => document.querySelector('.playhead').style.transform")
    page.keyboard.press(" ")
    expect(dialog.get_by_text("play", exact=True)).to_be_visible()
    still = dialog.locator("canvas").first.evaluate(red)
    page.keyboard.press(".")
    assert dialog.locator("canvas").first.evaluate(red) == still + 1
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


# ---- pairs


def test_an_answer_can_be_put_right_and_the_list_says_so(served: Server, visit: Callable[..., Page]) -> None:
    page = visit("pairs")
    pairs = page.locator(".pair")
    expect(pairs).to_have_count(12)
    assert "ana said right, r̂ had predicted left with 86 %" in pairs.first.inner_text()
    assert f"{HOSTILE} said right, r̂ had predicted left with 82 %" in pairs.nth(1).inner_text()
    assert "surprise 1.97 nats" in pairs.first.inner_text()
    pairs.first.get_by_text("watch").click()
    page.locator("dialog[open]").get_by_role("button", name="the same", exact=True).click()
    expect(page.locator("#toast")).to_have_text("Answered anew.")
    expect(pairs.first).not_to_contain_text("pair 14 ")
    pairs.first.get_by_text("watch").click()
    page.locator("dialog[open]").get_by_text("exclude").click()
    assert page.locator("dialog[open]").get_by_text("really, for good?").is_visible()
    page.locator("dialog[open]").get_by_text("really, for good?").click()
    expect(page.locator("#toast")).to_have_text("Excluded: it counts no more.")
    with closing(served.run.store()) as store:
        stands = {p.query: (p.choice.value, p.teacher) for p, _ in store.preferences()}
    assert stands[14] == ("equal", "you")
    assert 12 not in stands


@pytest.mark.slow
def test_a_pair_can_be_made_a_gold_one(served: Server, visit: Callable[..., Page]) -> None:
    page = visit("pairs")
    page.click("#panel-pairs >> text=newest")
    page.locator(".pair").last.get_by_text("watch").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Why that is right").fill(HOSTILE)
    dialog.get_by_text("left is better").click()
    expect(page.locator(".pair .gold")).to_have_text(f"gold: left, {HOSTILE}")


# ---- annotators


def test_annotators_are_shown_invited_and_told_what_to_look_for(served: Server, visit: Callable[..., Page]) -> None:
    page = visit("annotators")
    rows = page.locator(".people tbody tr")
    expect(rows).not_to_have_count(0)
    names = rows.locator("td:first-child").all_inner_texts()
    assert {"ana", HOSTILE} <= set(names)
    page.get_by_label("Name", exact=True).fill("zoe")
    page.get_by_label("Answers wanted").fill("50")
    page.get_by_text("make a link").click()
    link = page.locator(".made code")
    expect(link).to_have_text(re.compile(r"^http://127\.0\.0\.1:\d+/label\?token=[\w-]{43}$"))
    expect(rows.filter(has_text="zoe")).to_contain_text("0 of 50")
    rows.filter(has_text="zoe").get_by_text("revoke").click()
    rows.filter(has_text="zoe").get_by_text("really?").click()
    expect(rows.filter(has_text="zoe")).to_contain_text("label, revoked")
    text = page.get_by_label("One or two sentences")
    expect(text).to_have_value("Which one flips?")
    text.fill("Which one lands?")
    page.get_by_text("put in front of annotators").click()
    expect(page.get_by_text("Version 2, since")).to_be_visible()
    page.get_by_role("button", name=HOSTILE).click()
    expect(page.locator("#panel-pairs")).to_be_visible()
    expect(page.locator(".pair >> nth=0")).to_contain_text(f"{HOSTILE} said")
    assert page.locator("main img").count() == 0, "words of people are words"


@pytest.mark.slow
def test_who_may_only_look_is_offered_no_change(served: Server, visit: Callable[..., Page]) -> None:
    with closing(served.run.store()) as store:
        token = store.invite("viewer", "view")
    page = visit("annotators")
    page.context.clear_cookies()
    page.goto(f"http://127.0.0.1:{served.port}/run?token={token}")
    page.click("#tab-annotators")
    expect(page.locator(".people tbody tr")).not_to_have_count(0)
    expect(page.locator("#panel-annotators .instruction")).to_be_visible()
    assert page.locator(".office").is_hidden()
    assert page.get_by_text("revoke", exact=True).count() == 0
    page.click("#tab-pairs")
    page.locator(".pair").first.get_by_text("watch").click()
    expect(page.locator("dialog[open]")).to_contain_text("Admins can")


# ---- export, alarm, and all of it


def test_what_was_answered_can_be_taken_home(served: Server, visit: Callable[..., Page]) -> None:
    page = visit("export")
    page.get_by_label("without names").check()
    with page.expect_download() as download:
        page.get_by_text("Answers that count").click()
    with open(download.value.path()) as file:
        lines = [json.loads(line) for line in file]
    assert len(lines) >= PAIRS - 1
    assert {line["teacher"] for line in lines} <= {"annotator-1", "annotator-2", "annotator-3"}
    command = f"backflip export {served.run.path} --events answers.jsonl"
    expect(page.locator(".commands code").first).to_have_text(command)


def test_the_alarm_is_shown_with_its_sentence_until_it_is_off(served: Server, visit: Callable[..., Page]) -> None:
    page = visit()
    assert page.locator("#alarm").is_hidden()
    served.run.tell("alarm", on=True, since=900, sentence="Since step 900 <b>people</b> agree less.", advice="Look.")
    update(page)
    expect(page.locator("#alarm")).to_be_visible()
    expect(page.locator("#alarm-sentence")).to_have_text("Since step 900 <b>people</b> agree less.")
    page.click("text=The greatest surprises")
    expect(page.locator("#panel-pairs")).to_be_visible()
    served.run.tell("alarm", on=False, sentence="No sign of reward hacking: all is well.", advice="")
    update(page)
    expect(page.locator("#alarm")).to_be_hidden()
    page.click("#tab-reward")
    expect(page.locator("#verdict")).to_have_text("No sign of reward hacking: all is well.")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    found: dict[str, Any] = {}
    for tab in TABS:
        page.click(f"#tab-{tab}")
        if tab in ("clips", "pairs", "annotators"):
            page.wait_for_selector({"clips": ".clip-card", "pairs": ".pair", "annotators": ".people td"}[tab])
        found[tab] = [(v["id"], [n["html"] for n in v["nodes"]]) for v in Axe().run(page).response["violations"]]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    assert found == {tab: [] for tab in TABS}
