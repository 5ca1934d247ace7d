"""The plugin API is what `plugin_api.txt` lists: it only grows while the major version stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.authoring.contract import broken_promises, contract, read, write

FILE = Path(__file__).with_name("plugin_api.txt")
REFRESH = "python -m windlass.authoring.contract tests/repo/plugin_api.txt"


def test_the_plugin_api_keeps_what_it_promised() -> None:
    problems = broken_promises(read(FILE.read_text()), contract())
    assert not problems, "\n\n".join(
        [*problems, 'docs/plugins.md, "Versions": undo it, or raise the major of API_VERSION']
    )


def test_what_was_added_is_listed() -> None:
    added = sorted(contract().keys() - read(FILE.read_text()).keys())
    assert not added, f"new in the plugin API: {', '.join(added)}. If that is meant: {REFRESH}"


def test_the_list_is_read_as_it_was_written() -> None:
    assert read(write(contract())) == contract()


BEFORE = {
    "windlass.plugin API_VERSION": "API_VERSION: tuple[int, int] = (1, 0)",
    "windlass.plugin Spec": "@dataclass(frozen=True) class Spec",
    "windlass.plugin Spec.name": "Spec.name: str",
    "windlass.plugin probe": "hook probe -> Availability",
    "windlass.backend Device": "class Device(ABC)",
    "windlass.backend Device.wait": "abstract Device.wait(self) -> None",
}


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("windlass.plugin Spec.color", "Spec.color: str = ''"),
        ("windlass.plugin Spec.bright", "Spec.bright(self) -> bool"),
        ("windlass.plugin probe.folder", "argument folder: Path"),
        ("windlass.plugin warm", "hook warm -> None"),
        ("windlass.backend Device.reset", "Device.reset(self) -> None"),
        ("windlass.backend Clock", "class Clock(ABC)"),
        ("windlass.plugin API_VERSION", "API_VERSION: tuple[int, int] = (1, 1)"),
    ],
)
def test_a_minor_version_may_add(key: str, line: str) -> None:
    assert not broken_promises(BEFORE, BEFORE | {key: line})


@pytest.mark.parametrize(
    ("key", "line", "rule"),
    [
        ("windlass.plugin Spec.name", "Spec.name: bytes", "what was called or implemented"),
        ("windlass.plugin Spec.name", None, "was removed"),
        ("windlass.plugin Spec.color", "Spec.color: str", "needs a conservative default"),
        ("windlass.backend Device.stop", "abstract Device.stop(self)", "needs a default"),
        ("windlass.backend Device.wait", "abstract Device.wait(self, s: int)", "only adds"),
    ],
)
def test_what_breaks_a_plugin_is_told_with_the_rule(key: str, line: str | None, rule: str) -> None:
    now = {**BEFORE, key: line}
    (problem,) = broken_promises(BEFORE, {k: v for k, v in now.items() if v is not None})
    assert key in problem
    assert rule in problem


def test_a_major_version_may_break_everything() -> None:
    next_major = {"windlass.plugin API_VERSION": "API_VERSION: tuple[int, int] = (2, 0)"}
    assert not broken_promises(BEFORE, next_major)
