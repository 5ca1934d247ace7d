"""The tutorial: each page writes its files into one folder and runs its commands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from windlass.testing.conformance import Target, prove

PAGES = sorted((Path(__file__).parents[2] / "docs/plugins").glob("[1-9]-*.md"))

_FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PROGRAMS = {
    "pip": ["-m", "pip", "--quiet"],
    "python": [],
    "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
    "windlass": ["-m", "windlass.cli"],
}
_WITHOUT_NETWORK = ["--no-deps", "--no-build-isolation", "--upgrade", "--target", "site"]


def files_of(page: Path) -> dict[str, str]:
    """The files that a page writes: path and text."""
    return dict(_FILE.findall(page.read_text()))


def commands_of(page: Path) -> list[str]:
    """The commands that a page runs, in order."""
    lines = [line for block in _CONSOLE.findall(page.read_text()) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def write_through(last: Path, folder: Path) -> None:
    """Write the files of every page up to `last`, as a reader has them who came so far."""
    for page in PAGES[: PAGES.index(last) + 1]:
        for name, text in files_of(page).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def run(command: str, folder: Path) -> None:
    """Run a command of the tutorial in its folder; what it installs goes to `site` there.

    Fails with what it printed when it does not end well.
    """
    name, *rest = shlex.split(command)
    if name == "pip":
        rest = [*rest, *_WITHOUT_NETWORK]
    variables = {
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join((str(folder), str(folder / "site"))),
    }
    done = subprocess.run(
        [sys.executable, *_PROGRAMS[name], *rest],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    write_through(page, tmp_path)
    commands = commands_of(page)
    assert commands
    for command in commands:
        run(command, tmp_path)


def test_the_code_of_the_tutorial_is_clean(tmp_path: Path) -> None:
    write_through(PAGES[-1], tmp_path)
    ruff = [sys.executable, "-m", "ruff", "--isolated"]
    rules = [
        "--line-length",
        "100",
        "--select",
        "E,F,W,I,B,UP,D1",
        "--ignore",
        "D100,D103,D104,D107",
    ]
    (tmp_path / "acme_plugin.py").unlink()  # of the first page; the second makes it a package
    per_file = ["--per-file-ignores", "tests/*:D1,tests/*:E402"]
    subprocess.run([*ruff, "check", *rules, *per_file, "--no-cache", "."], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_the_smallest_plugin_has_at_most_15_lines_and_conforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(PAGES[0])
    lines = [line for text in files.values() for line in text.splitlines()]
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 15
    write_through(PAGES[0], tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    report = prove(Target("acme", "acme_plugin"), ["L0", "L1", "L2", "L3"])
    assert report.proven, report.failure_text()
