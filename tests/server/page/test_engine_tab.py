"""The engine tab in the browser, while a real engine works."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.page.conftest import MakeVisit, Visit

expect = pytest.importorskip("playwright.sync_api").expect

PREFIX = "Once upon a time there was a fox who lived by the sea. " * 12
SHARING = [f"{PREFIX} And {number} came." for number in range(6)]
"""Four of them run at a time, the others wait."""
# How many of the requests' colours are on the canvas, and how many pixels are not pale.
PAINTED = """
() => {
  const grid = document.getElementById("blocks");
  const canvas = new OffscreenCanvas(grid.width, grid.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(grid, 0, 0);
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  let opaque = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] !== 255) continue;
    opaque += 1;
    seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
  }
  const rows = [...document.querySelectorAll("#requests .swatch")];
  const wanted = rows.map((row) => getComputedStyle(row).backgroundColor.replace(/[rgb() ]/g, ""));
  return [wanted.filter((colour) => seen.has(colour)).length, opaque];
}
"""


def open_tab(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Engine").click()


def chart(visit: Visit, title: str) -> Any:
    return visit.page.locator(".chart", has_text=title).locator(".value")


def test_blocks_are_drawn_in_the_colours_of_their_requests(visit: Visit) -> None:
    open_tab(visit)
    with visit.server.load(SHARING):
        rows = visit.page.locator("#requests tr", has_text="running")
        expect(rows).to_have_count(4)
        expect(visit.page.locator("#blocks-summary")).to_have_text(
            re.compile(r"299 blocks of \d+ tokens: \d+ held, [1-9]\d* shared, \d+ free and cached")
        )
        visit.page.get_by_role("button", name="Pause").click()
        assert visit.page.evaluate(PAINTED)[0] >= 4
        label = visit.page.locator("#blocks").get_attribute("aria-label")
        assert re.search(r"[1-9]\d* shared", label or "")
        cells = rows.first.locator("td").all_text_contents()
    assert cells[0] == "running"
    assert int(cells[1]) > 100
    assert int(cells[4]) > 3
    expect(visit.page.locator("#engine-device")).to_contain_text("demo on cpu")


def test_those_that_wait_are_listed(visit: Visit) -> None:
    open_tab(visit)
    with visit.server.load(SHARING):
        expect(visit.page.locator("#requests tr", has_text="waiting").first).to_be_visible()


def test_a_block_tells_who_holds_it_and_a_request_shows_its_blocks(visit: Visit) -> None:
    open_tab(visit)
    with visit.server.load(SHARING[:3]):
        expect(visit.page.locator("#requests tr", has_text="running")).to_have_count(3)
        visit.page.get_by_role("button", name="Pause").click()
        name = visit.page.locator("#requests button").first
        _, before = visit.page.evaluate(PAINTED)
        name.click()
        expect(name).to_have_attribute("aria-pressed", "true")
        _, after = visit.page.evaluate(PAINTED)
        assert 0 < after < before / 2, "the blocks of others are pale"
        visit.page.locator("#blocks").hover(position={"x": 5, "y": 5})
        expect(visit.page.locator("#block-hint")).to_contain_text("Block 1:")


def test_charts_follow_and_say_their_numbers(visit: Visit) -> None:
    open_tab(visit)
    with visit.server.load(SHARING[:2]):
        for title in ("Output tokens/s", "Mean time per token", "Tokens in a step"):
            expect(chart(visit, title)).to_have_text(re.compile(r"[1-9]"), timeout=15_000)
        expect(chart(visit, "Running requests")).to_have_text("2")
        expect(chart(visit, "Prefix cache hit rate")).to_have_text(re.compile(r"[1-9]\d* %"))
        picture = visit.page.get_by_role(
            "img", name=re.compile(r"Output tokens.s: now \d+, highest")
        )
        expect(picture).to_be_visible()
    expect(chart(visit, "Running requests")).to_have_text("0", timeout=15_000)
    expect(visit.page.locator("#requests-summary")).to_have_text("none now")


def test_a_key_that_is_refused_is_asked_for_once_and_the_next_one_goes_on(
    visit_with: MakeVisit,
) -> None:
    visit = visit_with(key="")
    dialog = visit.page.get_by_role("dialog", name="API key")
    dialog.get_by_role("button", name="Cancel").click()
    open_tab(visit)
    expect(visit.page.locator("#engine-error")).to_contain_text("API key")
    expect(visit.page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    dialog.get_by_label("Key").fill("page-key")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#engine-device")).to_contain_text("demo on cpu")
    expect(visit.page.locator("#engine-error")).to_be_hidden()


def test_who_may_not_look_is_told_why_and_may_chat_all_the_same(visit_with: MakeVisit) -> None:
    visit = visit_with(key="user-key")
    open_tab(visit)
    expect(visit.page.locator("#engine-error")).to_have_text(
        "This needs an admin key: see --admin-api-key of windlass serve."
    )
    expect(visit.page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    expect(visit.page.get_by_role("dialog", name="API key")).to_be_hidden()
    visit.page.get_by_role("tab", name="Chat").click()
    expect(visit.page.locator("#model option").first).to_be_attached()
    visit.ask("Hello")


def test_nobody_looks_while_the_tab_is_not_shown_or_paused(visit: Visit) -> None:
    def looks() -> int:
        return sum(request.url.endswith("/windlass/view") for request in visit.requests)

    pause = visit.page.get_by_role("button", name="Pause")
    visit.page.clock.install()
    visit.page.clock.run_for(5000)
    assert looks() == 0
    open_tab(visit)
    visit.page.clock.run_for(3000)
    assert looks() == 4
    pause.click()
    visit.page.clock.run_for(3000)
    assert looks() == 4
    pause.click()
    visit.page.clock.run_for(1000)
    assert looks() == 5
    visit.page.get_by_role("tab", name="Chat").click()
    visit.page.clock.run_for(3000)
    assert looks() == 5
