"""The backend "ipex" in an environment without the extension: what it says before it is loaded.

Its attention runs in `benchmarks/xpu/ipex_cpu.py`, which makes the environment that it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from windlass.backend import AttentionParams, GraphSupport, KVSpec
from windlass.config import BackendConfig
from windlass.errors import BackendNotAvailableError
from windlass.plugin import Status, TorchBuild
from windlass.plugin.discovery import discover
from windlass_xpu import ipex_plugin
from windlass_xpu.ipex import IpexAttention, kv_layout
from windlass_xpu.ipex_library import hidden, ipex_module

XPU_TORCH = TorchBuild("2.8.0+xpu", {"xpu": "20250101"})
CPU_TORCH = TorchBuild("2.8.0+cpu", {})
EXTENSION = """
class PagedAttention:
    pass
"""


def test_it_follows_the_build_of_torch_and_is_never_chosen_by_itself() -> None:
    assert ipex_plugin.spec(XPU_TORCH).device_type == "xpu"
    spec = ipex_plugin.spec(CPU_TORCH)
    assert spec.device_type == "cpu"
    assert spec.stability == "experimental"


def test_any_other_torch_is_named_before_anything_is_imported() -> None:
    found = discover(BackendConfig(backend="ipex"), extra={"ipex": ipex_plugin})
    said = found[0].availability
    assert said.status is Status.NOT_INSTALLED
    assert said.reason == f"torch {torch.__version__} is installed, it needs torch==2.8.*"


@pytest.mark.parametrize(
    ("flags", "status"), [("fpu avx avx2", Status.AVAILABLE), ("fpu avx", Status.NO_DEVICE)]
)
def test_the_processor_needs_avx2(tmp_path: Path, flags: str, status: Status) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert ipex_plugin.probe(CPU_TORCH, cpuinfo).status is status


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the extension's name, in front of all others."""
    folder = tmp_path / "intel_extension_for_pytorch"
    (folder / "llm").mkdir(parents=True)
    (folder / "llm" / "__init__.py").touch()
    (folder / "llm" / "modules.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    ipex_module.cache_clear()
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ("import sys; sys.exit('ERROR! it needs AVX2')", "SystemExit: ERROR! it needs AVX2"),
        ("import os; os.exit(127)", "AttributeError: module 'os' has no attribute 'exit'"),
    ],
)
def test_an_extension_that_ends_the_process_is_an_error(
    package: Path, ends: str, text: str
) -> None:
    (package / "__init__.py").write_text(ends)
    with pytest.raises(BackendNotAvailableError, match="cannot be imported") as failed:
        ipex_module("llm.modules")
    assert text in str(failed.value)


def test_the_extension_does_not_see_transformers(package: Path) -> None:
    import transformers

    (package / "__init__.py").write_text(
        "try:\n    import transformers\nexcept ImportError:\n    transformers = None\n"
    )
    ipex_module("llm.modules")
    assert sys.modules[package.name].transformers is None
    assert sys.modules["transformers"] is transformers
    with hidden("windlass_absent"):
        assert sys.modules["windlass_absent"] is None
    assert "windlass_absent" not in sys.modules


def test_what_the_extension_cannot_do_is_refused_with_a_reason(package: Path) -> None:
    (package / "__init__.py").touch()
    attention = IpexAttention("cpu")
    spec = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.bfloat16)
    layout = kv_layout("cpu", 32)
    plain = AttentionParams(scale=0.125)

    def reason(**changes: object) -> str:
        asked = {"spec": spec, "layout": layout, "dtype": torch.bfloat16, "params": plain}
        return attention.supports(**{**asked, **changes}).reason  # type: ignore[arg-type]

    assert reason() == ""
    assert "sinks" in reason(params=AttentionParams(scale=1.0, sinks=torch.zeros(2)))
    assert "no window" in reason(params=AttentionParams(scale=1.0, window=1))
    assert "LBHNC, not split ones in LBNHC" in reason(layout=kv_layout("xpu", 32))
    assert "graphs" in reason(graph=GraphSupport.DECODE_UNIFORM)
    int8 = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.int8)
    assert "not torch.int8" in reason(spec=int8)
    with pytest.raises(ValueError, match="one shape"):
        attention.write_kv(
            None,  # type: ignore[arg-type]
            0,
            torch.zeros(1, 2, 64),
            torch.zeros(1, 2, 32),
            torch.zeros(1, dtype=torch.int32),
        )
