"""The page's modules in the browser: Markdown, server-sent events, timing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.page.conftest import Visit

expect = pytest.importorskip("playwright.sync_api").expect

LINK = ' target="_blank" rel="noopener noreferrer"'
MARKDOWN = [
    ("plain", "<p>plain</p>"),
    ("two\nlines", "<p>two\nlines</p>"),
    ("hard  \nbreak", "<p>hard<br>break</p>"),
    ("one\n\ntwo", "<p>one</p><p>two</p>"),
    ("# Title #", "<h4>Title</h4>"),
    ("### Third", "<h6>Third</h6>"),
    ("#no title", "<p>#no title</p>"),
    ("*a* **b** ***c*** ~~d~~", None),
    ("**bold *and* more**", "<p><strong>bold <em>and</em> more</strong></p>"),
    ("***c***", "<p><strong><em>c</em></strong></p>"),
    ("2 * 3 * 4 and snake_case_name", "<p>2 * 3 * 4 and snake_case_name</p>"),
    ("**open", "<p>**open</p>"),
    ("a `b*c*` d", "<p>a <code>b*c*</code> d</p>"),
    ("``a`b``", "<p><code>a`b</code></p>"),
    ("a `open", "<p>a `open</p>"),
    (r"\*no\* \[x]", "<p>*no* [x]</p>"),
    ("> quote\n> more", "<blockquote><p>quote\nmore</p></blockquote>"),
    ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
    ("- a\n\n  b", "<ul><li><p>a</p><p>b</p></li></ul>"),
    ("---", "<hr>"),
    ("[a](https://x.org/y)", f'<p><a href="https://x.org/y"{LINK}>a</a></p>'),
    ("see https://x.org/y.", f'<p>see <a href="https://x.org/y"{LINK}>https://x.org/y</a>.</p>'),
    ("[https://a.org](https://a.org)", f'<p><a href="https://a.org/"{LINK}>https://a.org</a></p>'),
    ("![cat](https://x.org/c.png)", f'<p><a href="https://x.org/c.png"{LINK}>🖼 cat</a></p>'),
    ("[a] (b) [c", "<p>[a] (b) [c</p>"),
]
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1><a xlink:href='javascript:window.hacked=1'>x</a></svg>",
    "<iframe src='javascript:window.hacked=1'></iframe>",
    "[x](javascript:window.hacked=1)",
    "[x](JaVaScRiPt:window.hacked=1)",
    "[x](java\tscript:window.hacked=1)",
    "[x](&#106;avascript:window.hacked=1)",
    "[x]( javascript:window.hacked=1)",
    "[x](data:text/html,<script>window.hacked=1</script>)",
    "[x](vbscript:window.hacked=1)",
    "[x](//evil.example/x)",
    '[x](https://a.org/" onmouseover="window.hacked=1)',
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:window.hacked=1)",
    '```"><script>window.hacked=1</script>\ncode\n```',
    "```html\n<script>window.hacked=1</script>\n```",
    "| <script>window.hacked=1</script> | b |\n|---|---|\n| <img onerror=window.hacked=1> | d |",
    "> <b onclick=window.hacked=1>x</b>",
    "- <style>*{display:none}</style>",
    "# <h1 style=color:red>x</h1>",
    'https://a.org/"onclick="window.hacked=1',
    "<<script>script>window.hacked=1<</script>/script>",
    "`<img src=x onerror=window.hacked=1>`",
]
CHECK_TREE = """
const tags = new Set("A BLOCKQUOTE BR BUTTON CODE DEL DIV EM FIGCAPTION FIGURE H4 H5 H6 HR LI OL P "
  .concat("PRE SPAN STRONG TABLE TBODY TD TH THEAD TR UL").split(" "));
const names = new Set("aria-label class href rel role scope start tabindex target type".split(" "));
const wrong = [];
for (const text of v[0]) {
  const box = document.createElement("div");
  box.append(m.renderMarkdown(text));
  document.body.append(box);
  for (const node of box.querySelectorAll("*")) {
    if (!tags.has(node.tagName)) wrong.push([text, node.tagName]);
    for (const { name } of node.attributes) if (!names.has(name)) wrong.push([text, name]);
    if (node.href && !/^(https?|mailto):/.test(node.href)) wrong.push([text, node.href]);
  }
  box.remove();
}
return wrong;
"""
STREAM = (
    "\ufeffdata: one\n\n: comment\r\n\r\nevent: named\r\ndata: two\r\ndata: lines\r\n\r\n"
    "data\n\ndata:  kept space\rid: 3\r\rretry: 5\n\ndata: ü猫🐈\n\ndata: unfinished"
)
EVENTS = [
    {"name": "message", "data": "one"},
    {"name": "named", "data": "two\nlines"},
    {"name": "message", "data": ""},
    {"name": "message", "data": " kept space"},
    {"name": "message", "data": "ü猫🐈"},
]


def render(visit: Visit, text: str) -> Any:
    script = """
    const box = document.createElement("div");
    box.append(m.renderMarkdown(v[0]));
    return box.innerHTML;
    """
    return visit.module(script, "markdown.js", text)


def test_markdown_becomes_these_elements(visit: Visit) -> None:
    for text, expected in MARKDOWN:
        if expected is not None:
            assert render(visit, text) == expected, text
    several = render(visit, "*a* **b** ***c*** ~~d~~")
    assert several == (
        "<p><em>a</em> <strong>b</strong> <strong><em>c</em></strong> <del>d</del></p>"
    )


def test_tables_and_code_become_scrollable_boxes(visit: Visit) -> None:
    table = render(visit, "| a | b |\n|---|--:|\n| 1 | `2` |\n| 3 |")
    assert '<th scope="col">a</th><th scope="col" class="align-end">b</th>' in table
    assert '<td>1</td><td class="align-end"><code>2</code></td>' in table
    assert '<td>3</td><td class="align-end"></td>' in table
    code = render(visit, "~~~python\nif x:\n    y = `1`\n~~~\nafter")
    assert "<code>if x:\n    y = `1`</code></pre></figure><p>after</p>" in code
    assert "<span>python</span>" in code


def test_hostile_text_stays_text(visit: Visit) -> None:
    assert visit.module(CHECK_TREE, "markdown.js", HOSTILE) == []
    assert visit.page.evaluate("window.hacked") is None


def test_hostile_answers_and_questions_stay_text_on_the_page(visit: Visit) -> None:
    text = "\n\n".join(HOSTILE)
    call = {"index": 0, "id": HOSTILE[0], "function": {"name": HOSTILE[1], "arguments": HOSTILE[2]}}
    visit.answer_with({"reasoning": text}, {"content": text}, {"tool_calls": [call]})
    answer = visit.ask(text)
    expect(answer.locator(".content").last).to_contain_text("<script>window.hacked = 1</script>")
    question = visit.page.locator(".message.user .content")
    assert question.text_content() == text
    answer.get_by_text("Reasoning").click()
    visit.page.reload()
    expect(visit.page.locator(".message")).to_have_count(2)
    scripts = visit.page.locator("body script, main img, main svg a, iframe, style")
    assert scripts.count() == 0
    assert visit.page.evaluate("window.hacked") is None


def test_a_text_that_grows_looks_like_the_whole_at_every_step(visit: Visit) -> None:
    sample = (
        "\n".join(text for text, _ in MARKDOWN) + "\n\n| a |\n|---|\n| b |\n\n```js\nx\n```\nend"
    )
    script = """
    const box = document.createElement("div");
    const view = new m.MarkdownView(box);
    for (let end = 0; end <= v[0].length; end += 1) {
      view.update(v[0].slice(0, end));
      const whole = document.createElement("div");
      whole.append(m.renderMarkdown(v[0].slice(0, end)));
      if (box.innerHTML !== whole.innerHTML) return v[0].slice(0, end);
    }
    return "equal";
    """
    assert visit.module(script, "markdown.js", sample) == "equal"


def test_long_and_deep_texts_come_to_an_end(visit: Visit) -> None:
    script = """
    const box = document.createElement("div");
    for (const [piece, count] of v[0]) box.replaceChildren(m.renderMarkdown(piece.repeat(count)));
    return box.textContent.length;
    """
    pieces = (
        "*",
        "**a ",
        "[",
        "![",
        "](",
        "`",
        "`` ` ",
        "> ",
        "- ",
        "|",
        "-",
        "_a",
        "~~",
        "\\",
        "#",
    )
    lines = ("> > > a\n", "  - a\n", "| a |\n", "```\n", "1. ", "---|", "https://", "a\n")
    hard = [[piece, 30_000] for piece in (*pieces, *lines)]
    assert visit.module(script, "markdown.js", hard) > 0


def test_events_are_the_same_at_every_cut_of_the_stream(visit: Visit) -> None:
    script = """
    const seen = new Set();
    for (let first = 0; first <= v[0].length; first += 1) {
      for (const second of [first, first + 1, first + 7, v[0].length]) {
        const parser = new m.SseParser();
        const parts = [v[0].slice(0, first), v[0].slice(first, second), v[0].slice(second)];
        seen.add(JSON.stringify(parts.flatMap((part) => parser.feed(part))));
      }
    }
    return [...seen].map((events) => JSON.parse(events));
    """
    assert visit.module(script, "sse.js", STREAM) == [EVENTS]


def test_durations_are_for_people(visit: Visit) -> None:
    seconds = [None, 0.0042, 0.25, 1.234, 45.6, 300]
    texts = visit.module("return v[0].map(m.duration);", "timing.js", seconds)
    assert texts == ["\u2013", "4.2 ms", "250 ms", "1.23 s", "46 s", "5 min"]


@pytest.mark.parametrize(("pieces", "rate"), [([100, 200, 300], 20.0), ([100, 101, 102], None)])
def test_a_pace_is_told_unless_all_came_at_once(
    visit: Visit, pieces: list[int], rate: float | None
) -> None:
    """The clock of the page is replaced: five tokens, whose pieces come at these milliseconds."""
    script = """
    let now = 0;
    performance.now = () => now;
    const timing = new m.Timing();
    for (now of v[0]) timing.piece();
    timing.usage = { completion_tokens: 5 };
    const line = m.statsLine(timing.result());
    return [timing.result().rate, line];
    """
    found, line = visit.module(script, "timing.js", pieces)
    assert found == rate
    assert ("tokens/s" in line) == (rate is not None)
