"""Nobody is shut out of the pages: axe-core finds nothing serious in any state, and none is told by colour alone."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from pages import Server, seen_pair, wait_for_text, wait_ready

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
SERIOUS = ("serious", "critical")


def findings(page: Page) -> list[str]:
    """What axe-core calls serious or worse, with where it is."""
    page.evaluate("document.getAnimations().forEach((one) => one.cancel())")  # half a colour has no contrast
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_labelling_page(shared: Server, open_page: OpenPage, scheme: str) -> None:
    page = open_page(shared, fresh=True, color_scheme=scheme)
    page.wait_for_selector("#guide[open]")
    states = {"guide": findings(page)}
    page.click("#guide-practice")
    wait_for_text(page, "#practice-title", "1 of")
    page.wait_for_timeout(450)
    page.keyboard.press("ArrowRight")
    states["practice"] = findings(page)
    page.click("#practice-leave")
    seen_pair(page)
    wait_ready(page)
    page.keyboard.press("ArrowRight")
    seen_pair(page)
    states["showing"] = findings(page)
    page.click("#help")
    page.click("#guide-keys")
    page.click("[data-slot=undo-1]")
    states["keys"] = findings(page)
    page.goto(page.url.replace("/label", "/run"))
    page.wait_for_function("() => document.getElementById('labels').textContent !== '–'")
    states["run"] = findings(page)
    assert states == {state: [] for state in states}


def test_axe_finds_nothing_serious_on_a_phone_nor_while_waiting_nor_offline(
    serve: Callable[..., Server], open_page: OpenPage
) -> None:
    server = serve(1)
    phone = {"viewport": {"width": 390, "height": 720}, "has_touch": True, "is_mobile": True}
    page = open_page(server, expected="ERR_INTERNET_DISCONNECTED", **phone)
    seen_pair(page)
    states = {"phone": findings(page)}
    page.click("[data-choice=left]")
    page.wait_for_selector("body[data-state=waiting]")
    states["waiting"] = findings(page)
    page.context.set_offline(True)
    wait_for_text(page, "#saved", "offline")
    states["offline"] = findings(page)
    assert states == {"phone": [], "waiting": [], "offline": []}


def test_every_button_has_a_focus_ring_and_the_tab_key_reaches_it(shared: Server, open_page: OpenPage) -> None:
    page = open_page(shared)
    seen_pair(page)
    reached = {}
    for _ in range(24):
        page.keyboard.press("Tab")
        name, ring = page.evaluate(
            "() => { const it = document.activeElement; const { outlineStyle, outlineWidth } = getComputedStyle(it);"
            " return [it.id || it.dataset.choice || it.dataset.action || it.dataset.speed || it.className,"
            " outlineStyle === 'none' ? 0 : parseFloat(outlineWidth)]; }"
        )
        reached[name] = ring
    wanted = {
        "help",
        "instruction",
        "pause",
        "back",
        "restart",
        "0.5",
        "left",
        "equal",
        "incomparable",
        "right",
        "skip",
    }
    assert wanted | {"flag", "to-run"} <= set(reached)
    assert all(ring >= 2 for name, ring in reached.items() if name in wanted)
