"""A plugin that was written for plugin API 1.0 and is never edited passes the kit of today."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from windlass.testing.conformance import Target, prove

PLUGIN = Path(__file__).with_name("plugin_v1_0")
HASHES = Path(__file__).with_name("plugin_v1_0.sha256")


def digests() -> str:
    """The plugin's files, as `sha256sum` lists them."""
    files = sorted(path for path in PLUGIN.rglob("*") if path.suffix in {".py", ".toml", ".md"})
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(PLUGIN)}\n"
        for path in files
    )


def test_no_file_of_the_plugin_was_edited() -> None:
    assert digests() == HASHES.read_text(), (
        f"{PLUGIN.name} is frozen: it stands for plugins that others wrote for API 1.0. Undo the "
        'edit; where the kit refuses the plugin now, Windlass broke docs/plugins.md, "Versions"'
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", ["L0", "L1", "L2", "L3"])
def test_the_plugin_conforms(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    providers = ["compat"] if level == "L2" else []
    report = prove(Target("compat", "windlass_compat.plugin"), [level], providers=providers)
    assert report.proven, report.failure_text()
