"""Plugins written to a temporary folder, with the metadata of a real distribution."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

WritePlugin = Callable[..., str]

GOOD = """
    from windlass.plugin import Availability, BackendSpec, DeviceDescription, hookimpl

    @hookimpl
    def windlass_backend():
        return BackendSpec(
            name="{name}", target="nowhere:Backend", device_type="cpu", priority=200
        )

    @hookimpl
    def windlass_probe():
        return Availability.available(DeviceDescription(index=0, name="a {name} device"))
"""


@pytest.fixture
def write_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WritePlugin:
    """Install `source` as the plugin `name` of the distribution `distribution`.

    Returns the name of its module. `{name}` in the source stands for the plugin's name,
    `{folder}` for the folder it is installed in.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def write(
        name: str,
        source: str = GOOD,
        *,
        distribution: str = "",
        version: str = "1.0",
        group: str = "windlass.backends",
    ) -> str:
        distribution = distribution or f"acme-{name}"
        module = f"{distribution.replace('-', '_')}_plugin"
        text = textwrap.dedent(source).replace("{name}", name).replace("{folder}", str(tmp_path))
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        return module

    return write
