"""Keyboard alone, screen readers, contrast, small screens, little motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.page.conftest import MakeVisit, Visit

expect = pytest.importorskip("playwright.sync_api").expect

RICH = """# Title

Some **bold** text, `code`, [a link](https://example.org) and a list:

- one
- two

> a quote

| column | another column | a third column | a fourth column |
|---|---|---|---|
| a long value that is long | another long value | and a third one | and a fourth |

```python
print("a line of code that is much too long for the screen of a phone, so that it has to scroll")
```
averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongwordwithoutaspace
"""
CONTRAST = """
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, i) => value * a + under[i] * (1 - a));
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backOf = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const canvas = dark ? [18, 18, 18] : [255, 255, 255];
    return layers.reverse().reduce((under, layer) => over(layer, under), canvas);
  };
  const poor = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest(".visually-hidden, option")) continue;
    const back = backOf(node);
    const front = over(parse(getComputedStyle(node).color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    seen += 1;
    if (ratio < 4.5) poor.push([text.data.trim().slice(0, 30), node.className, ratio.toFixed(2)]);
  }
  return [seen, poor];
}
"""
SMALL_TARGETS = """
() => [...document.querySelectorAll("button, input, select, textarea, summary, [role=tab]")]
  .filter((node) => node.checkVisibility() && !node.hidden)
  .map((node) => [node.getBoundingClientRect(), node])
  .filter(([box]) => box.height > 0 && (box.height < 24 || box.width < 24))
  .map(([box, node]) => [node.outerHTML.slice(0, 80), box.width, box.height])
"""
STRUCTURE = """
() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const doubled = ids.filter((id, at) => ids.indexOf(id) !== at);
  const lost = [];
  for (const name of ["aria-controls", "aria-labelledby", "aria-describedby", "for"]) {
    for (const node of document.querySelectorAll(`[${name}]`)) {
      for (const id of node.getAttribute(name).split(" ")) if (!ids.includes(id)) lost.push(id);
    }
  }
  const all = (query) => [...document.querySelectorAll(query)];
  const shown = (query) => all(query).filter((node) => node.checkVisibility());
  const levels = shown("h1, h2, h3, h4, h5, h6").map((node) => Number(node.tagName[1]));
  const jumps = levels.filter((level, at) => at > 0 && level > levels[at - 1] + 1);
  const { lang } = document.documentElement;
  return { doubled, lost, jumps, first: levels[0], mains: shown("main").length, lang };
}
"""
FOCUS = """
() => {
  const node = document.activeElement;
  if (!node || node === document.body) return null;
  const style = getComputedStyle(node);
  const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [node.id || node.textContent.trim() || node.className, visible];
}
"""


def nameless(visit: Visit) -> list[str]:
    """Roles of what can be focused and has no name for screen readers."""
    session = visit.context.new_cdp_session(visit.page)
    found = []
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        properties = {
            entry["name"]: entry["value"].get("value") for entry in node.get("properties", [])
        }
        role = node.get("role", {}).get("value")
        if (
            node.get("ignored")
            or not properties.get("focusable")
            or role in {"RootWebArea", "main"}
        ):
            continue
        if not node.get("name", {}).get("value", "").strip():
            found.append(role)
    session.detach()
    return found


def show_chat(visit: Visit) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": "{}"}}
    visit.answer_with({"reasoning": "so"}, {"content": RICH}, {"tool_calls": [call]})
    visit.ask("Show everything.")
    visit.page.get_by_text("Reasoning", exact=True).click()


def show_error(visit: Visit) -> None:
    visit.page.get_by_label("Temperature").fill("9")
    visit.page.get_by_label("Message", exact=True).fill("Hello")
    visit.page.get_by_label("Message", exact=True).press("Enter")
    expect(visit.page.locator("#notice")).to_be_visible()
    visit.page.get_by_text("Keyboard", exact=True).click()


def show_completion(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Completion").click()
    visit.page.get_by_role("button", name="Complete").click()
    expect(visit.page.locator("#text-stats")).to_contain_text("tokens")
    visit.page.locator(".lp").first.click()


def show_engine(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Engine").click()
    expect(visit.page.locator("#engine-device")).to_contain_text("demo on")
    expect(visit.page.locator("#requests tr").first).to_be_visible()


def show_key(visit: Visit) -> None:
    visit.page.get_by_role("button", name="API key").click()


SHOWN: list[Callable[[Any], None]] = [show_chat, show_completion, show_engine, show_error, show_key]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_a_place_and_contrast(visit_with: MakeVisit, scheme: str) -> None:
    visit = visit_with(color_scheme=scheme)
    with visit.server.load(["Once upon a time"]):
        for show in SHOWN:
            visit.page.reload()
            show(visit)
            name = show.__name__
            assert nameless(visit) == [], name
            seen, poor = visit.page.evaluate(CONTRAST)
            assert seen > 15, name
            assert poor == [], name
            assert visit.page.evaluate(SMALL_TARGETS) == [], name
            structure = visit.page.evaluate(STRUCTURE)
            wanted = {"doubled": [], "lost": [], "jumps": [], "first": 1, "mains": 1, "lang": "en"}
            assert structure == wanted, name
    visit.check()


def test_landmarks_and_live_regions_are_there(visit: Visit) -> None:
    for role in ("banner", "main", "navigation", "complementary", "tablist", "log", "status"):
        assert visit.page.get_by_role(role).count() == 1, role
    assert visit.page.locator("#spoken").get_attribute("aria-live") == "polite"
    # The growing answer itself is no live region: it would be read again with every token.
    assert visit.page.locator(".messages[aria-live], .scroll[aria-live]").count() == 0


def test_an_answer_is_spoken_in_sentences_and_each_once(visit: Visit) -> None:
    script = """
    const speaker = new m.Speaker();
    const spoken = document.getElementById("spoken");
    const said = [];
    new MutationObserver(() => said.push(spoken.textContent)).observe(spoken, { childList: true });
    let now = 0;
    performance.now = () => now;
    speaker.begin();
    const text = "One two. Three four! Five six? Seven eight";
    for (let end = 1; end <= text.length; end += 1) {
      now += 150;
      speaker.grow(text.slice(0, end));
      await null;
    }
    speaker.end(text);
    await null;
    return said.filter((words) => words);
    """
    said = visit.module(script, "speaker.js")
    assert " ".join(said) == "One two. Three four! Five six? Seven eight"
    assert 2 <= len(said) <= 4


def test_the_keyboard_alone_goes_everywhere(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS) == ["Skip to content", True]
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUS)
        if focused is None:
            break
        assert focused[1], f"the focus on {focused[0]} cannot be seen"
        seen.append(focused[0])
    wanted = ["tab-chat", "model", "key-button", "new", "export", "import", "draft", "send"]
    places = [seen.index(name) for name in [*wanted, "system", "p-temperature", "p-schema"]]
    assert places == sorted(places)
    assert "tab-engine" not in seen, "arrows move between tabs"


def test_a_conversation_needs_no_mouse(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Alt+m")
    page.keyboard.type("Who are you?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("And where?")
    page.keyboard.press("Enter")
    visit.answer()
    expect(page.locator(".message.user .content")).to_have_text("Who are you?\nAnd where?")
    expect(page.locator("#draft")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUS) == ["Regenerate", True]
    page.keyboard.press("Enter")
    visit.answer()
    page.keyboard.press("Alt+n")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#draft")).to_be_focused()
    page.keyboard.press("Alt+1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Engine")).to_be_focused()
    expect(page.locator("#view-engine")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.locator("#view-chat")).to_be_visible()
    page.keyboard.press("Alt+3")
    expect(page.locator("#view-engine")).to_be_visible()


def test_a_dialog_keeps_the_focus_and_gives_it_back(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="API key").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="API key")).to_be_focused()


def test_a_phone_shows_everything_without_scrolling_sideways(visit_with: MakeVisit) -> None:
    phone = {"width": 360, "height": 740}
    visit = visit_with(viewport=phone, is_mobile=True, has_touch=True, device_scale_factor=2)
    page = visit.page

    def fits(what: str) -> None:
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{what} is {width} pixels wide"
        clipped = page.evaluate(
            "[...document.querySelectorAll('main, .view, .side, .settings, .message, header')]"
            ".filter((n) => n.checkVisibility() && n.scrollWidth > n.clientWidth + 1)"
            ".map((n) => n.id || n.className)"
        )
        assert clipped == [], what

    with visit.server.load(["Once upon a time"]):
        for show in (show_chat, show_completion, show_engine, show_key):
            page.reload()
            show(visit)
            fits(show.__name__)
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Chat").tap()
    page.get_by_role("button", name="Conversations").tap()
    expect(page.get_by_role("button", name="New conversation")).to_be_visible()
    fits("the list of conversations")
    page.get_by_role("button", name="Show everything.", exact=True).tap()
    expect(page.get_by_label("Message", exact=True)).to_be_visible()
    page.get_by_role("button", name="Settings").tap()
    expect(page.get_by_label("Temperature")).to_be_visible()
    fits("the settings")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Message", exact=True)).to_be_visible()
    visit.check()


def test_nothing_moves_where_less_motion_is_preferred(visit_with: MakeVisit) -> None:
    moves = "document.getAnimations({ subtree: true }).length"
    for preference, count in (("no-preference", 1), ("reduce", 0)):
        visit = visit_with(reduced_motion=preference)
        visit.page.route("**/v1/chat/completions", lambda _route: None)
        visit.page.get_by_label("Message", exact=True).fill("Hello")
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator(".waiting")).to_be_visible()
        assert visit.page.evaluate(moves) == count
        visit.page.keyboard.press("Escape")
