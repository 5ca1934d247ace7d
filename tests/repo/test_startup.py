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
CPU_SECONDS = 0.150
ATTEMPTS = 5

PROGRAM = """
import json, sys, time
from windlass.cli import main
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as stop:
    code = stop.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, modules, time.process_time()]), file=sys.stderr)
"""


def start(arguments: list[str]) -> tuple[int, set[str], float]:
    """Run a fresh interpreter; returns exit code, top-level modules and its CPU seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules, seconds = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules), seconds


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code, modules, _ = start(arguments)
    assert code == 0
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_start_takes_little_cpu_time(arguments: list[str]) -> None:
    # CPU time, and the best of a few: a busy machine only makes a start slower.
    best = min(start(arguments)[2] for _ in range(ATTEMPTS))
    assert best <= CPU_SECONDS
