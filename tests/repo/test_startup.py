"""The command line starts fast, because it imports nothing heavy before it must."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "fastapi",
    "httpx",
    "jinja2",
    "numpy",
    "pydantic",
    "rich",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
    "zmq",
}
MOST_MODULES = 200
"""More than are needed today; a heavy library brings hundreds. `benchmarks/startup.py` measures
the time."""

PROGRAM = """
import json, sys
from windlass.cli import main
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def start(arguments: list[str]) -> tuple[int, set[str]]:
    """Run a command line in a fresh interpreter; returns exit code and the modules it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code, modules = start(arguments)
    assert code == 0
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert len(modules) <= MOST_MODULES


def test_the_version_is_told_without_reading_what_other_packages_bring() -> None:
    code, modules = start(["--version"])
    assert code == 0
    assert not {name for name in modules if name.startswith("windlass.commands")}
