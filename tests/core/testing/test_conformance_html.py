"""The page of a conformance report: what a reader, with or without eyes, finds on it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from windlass.cli import main
from windlass.testing.conformance import Outcome, Report
from windlass.testing.conformance.html_report import to_html

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Text by tag, every link to elsewhere, and whether tags close in the order they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], " ".join(data.split())))

    def all(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


def outcome(level: str, case: str, status: str = "passed", **more: object) -> Outcome:
    return Outcome(level=level, case=case, status=status, **more)  # type: ignore[arg-type]


OUTCOMES = (
    outcome("L0", "spec is valid", seconds=0.25),
    outcome("L2", "rope float32 7x96", provider="acme"),
    outcome("L2", "silu_mul float32 7x96", provider="reference"),
    outcome("L2", "silu_mul float32 7x96", "skipped", provider="acme", reason="it is wide"),
    outcome("L3", "decode, MHA", "failed", reason="3 of 4 < numbers & more are off"),
    outcome("L4", "qwen3: alone", measured={"log-probability off by": 0.001234}),
    outcome("L5", "all", "absent", reason="it has no graphs"),
)


def page(*outcomes: Outcome) -> Page:
    levels = tuple(dict.fromkeys(one.level for one in outcomes))
    report = Report(windlass="1.2", backend="acme", levels=levels, outcomes=outcomes, seconds=3.5)
    return Page(to_html(report))


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    found = page(*OUTCOMES)
    assert found.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in found.tags}
    addresses = [attrs.get("href") or attrs.get("src") for _, attrs in found.tags]
    assert [address for address in addresses if address] == ["#cases"]
    assert "url(" not in "".join(found.all("style"))


def test_failures_come_first_with_their_reason() -> None:
    found = page(*OUTCOMES)
    assert found.all("p")[0] == "not proven: 1 cases failed"
    assert found.all("h2") == ["Failures", "Levels", "Rejections", "Cases"]
    assert "3 of 4 < numbers & more are off" in found.all("td")
    assert found.all("summary")[0] == "L3 attention: 1 failed"


def test_an_op_has_its_providers_side_by_side() -> None:
    found = page(*OUTCOMES)
    assert "L2 silu_mul: 1 passed, 1 skipped" in found.all("summary")
    start = found.texts.index(("caption", "L2 silu_mul"))
    row = [text for tag, text in found.texts[start : start + 9] if tag in ("th", "span", "td")]
    assert row == [
        "case",
        "reference",
        "acme",
        "silu_mul float32 7x96",
        "passed",
        "in 0.000 s",
        "skipped",
        "in 0.000 s: it is wide",
    ]


def test_levels_are_counted_and_numbers_are_told() -> None:
    found = page(*OUTCOMES)
    start = found.all("td").index("ops")
    assert found.all("td")[start : start + 6] == ["ops", "2", "0", "1", "0", "0.0"]
    assert "in 0.000 s: log-probability off by 0.001234" in found.all("td")


def test_what_does_not_exist_is_a_rejection_with_a_reason() -> None:
    found = page(outcome("L0", "spec is valid"), OUTCOMES[-1])
    assert found.all("p")[0] == "proven"
    assert found.all("h2") == ["Levels", "Rejections", "Cases"]
    assert "it has no graphs" in found.all("th")


def test_a_level_of_which_nothing_ran_is_named() -> None:
    found = page(outcome("L1", "all", "skipped", reason="no device"))
    assert found.all("p")[0] == "not proven: nothing ran of L1"


def test_every_table_can_be_read_aloud_and_scrolled_with_keys() -> None:
    found = page(*OUTCOMES)
    captions = {attrs["id"] for tag, attrs in found.tags if tag == "caption"}
    regions = [attrs for _, attrs in found.tags if attrs.get("role") == "region"]
    assert {attrs["aria-labelledby"] for attrs in regions} == captions
    assert all(attrs["tabindex"] == "0" for attrs in regions)
    assert {attrs.get("scope") for tag, attrs in found.tags if tag == "th"} == {"col", "row"}
    assert found.tags[0] == ("html", {"lang": "en"})


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    assert main(["conformance", "cpu", "--level", "L0", "--html", str(file)]) == 0
    assert "proven" in capsys.readouterr().out
    found = Page(file.read_text(encoding="utf-8"))
    assert found.all("h1") == ["Conformance of cpu"]
    assert "discovery is quick" in found.all("th")


def test_a_page_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "no" / "report.html"
    assert main(["conformance", "cpu", "--level", "L0", "--html", str(file)]) != 0
    assert "--html" in capsys.readouterr().err
