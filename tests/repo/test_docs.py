"""Documentation that can be checked: links, examples, names of files, and every setting."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from windlass.config import (
    BackendConfig,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    PoolingConfig,
    SchedulerConfig,
    StructuredOutputConfig,
)
from windlass.request import SamplingParams
from windlass_server.command import add_arguments

ROOT = Path(__file__).parents[2]
IGNORED = {".venv", ".venv-dev", ".git", "build", "dist", "node_modules"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not IGNORED & set(page.relative_to(ROOT).parts) and ".pytest_cache" not in page.parts
)
SETTINGS = (ROOT / "docs/settings.md").read_text()

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_compile(page: Path) -> None:
    for example in PYTHON.findall(page.read_text()):
        ast.parse(example)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """In inline code, a path from the repository's root that starts with one of its folders."""
    folders = ("core/", "server/", "plugins/", "tests/", "docs/", "benchmarks/", "examples/")
    named = [code for code in CODE.findall(page.read_text()) if code.startswith(folders)]
    missing = [
        path
        for path in named
        if "NAME" not in path and not (ROOT / path).exists() and not (page.parent / path).exists()
    ]
    assert not missing


def section(heading: str) -> str:
    """The text of a section of the settings page, without the sections that follow."""
    _, found, rest = SETTINGS.partition(f"{heading}\n")
    assert found, f"docs/settings.md has no section {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_column(table: str) -> list[str]:
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [code for row in rows for code in CODE.findall(row)]


@pytest.mark.parametrize(
    ("heading", "config"),
    [
        ("### `ModelConfig`", ModelConfig),
        ("### `CacheConfig`", CacheConfig),
        ("### `SchedulerConfig`", SchedulerConfig),
        ("### `BackendConfig`", BackendConfig),
        ("### `StructuredOutputConfig`", StructuredOutputConfig),
        ("### `PoolingConfig`", PoolingConfig),
        ("### `EngineConfig`", EngineConfig),
        ("## Sampling", SamplingParams),
    ],
)
def test_every_field_is_told_in_order(heading: str, config: type) -> None:
    assert first_column(section(heading)) == list(config.__annotations__)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig,
        CacheConfig,
        SchedulerConfig,
        BackendConfig,
        StructuredOutputConfig,
        PoolingConfig,
    ],
)
def test_defaults_of_the_engine_are_true(config: type[msgspec.Struct]) -> None:
    rows = section(f"### `{config.__name__}`").splitlines()
    for field in msgspec.structs.fields(config):
        if isinstance(field.default, int | str) and not isinstance(field.default, bool):
            row = next(row for row in rows if row.startswith(f"| `{field.name}` "))
            assert f"| `{field.default}` |" in row


def test_every_flag_of_serve_is_told_and_no_other() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    told = {code for code in CODE.findall(SETTINGS) if code.startswith("--")}
    assert told - {"--debug", "--help"} == flags
