"""What `windlass plugin new` wrote, installed: its own tests, unmodified, prove L0 to L4."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from windlass.authoring.new_plugin import new_plugin, write_plugin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_new_plugin_conforms_as_it_is_written(tmp_path: Path) -> None:
    write_plugin(new_plugin("acme", "cpu"), tmp_path)
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    levels = "probe or hygiene or device_and_allocator or ops or attention or engine"
    for command in ([*install, "--target", site, "."], ["pytest", "-q", "tests", "-k", levels]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
    assert "skipped" not in done.stdout
