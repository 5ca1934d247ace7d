"""The kind of torch build is read from version.py, without importing torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from windlass.plugin import TorchBuild, installed_torch

CUDA = """
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
__version__ = '2.11.0+cu130'
debug = False
cuda: Optional[str] = '13.0'
git_version = '0123abc'
hip: Optional[str] = None
xpu: Optional[str] = None
"""


@pytest.mark.parametrize(
    ("source", "build"),
    [
        (CUDA, TorchBuild("2.11.0+cu130", {"cuda": "13.0"})),
        (
            "__version__ = '2.12.0+rocm7'\ncuda = None\nhip = '7.0.1'\n",
            TorchBuild("2.12.0+rocm7", {"hip": "7.0.1"}),
        ),
        ("__version__ = '2.13.0+cpu'\ncuda = None\n", TorchBuild("2.13.0+cpu", {})),
    ],
)
def test_the_runtimes_of_a_build_are_its_constants(
    tmp_path: Path, source: str, build: TorchBuild
) -> None:
    file = tmp_path / "version.py"
    file.write_text(source)
    assert installed_torch(file) == build


def test_a_build_has_no_runtime_that_it_does_not_name() -> None:
    build = TorchBuild("2.11.0", {"cuda": "13.0"})
    assert build.runtime("cuda") == "13.0"
    assert build.runtime("xpu") is None


def test_a_version_file_that_is_missing_or_no_python_means_no_torch(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("this is = not python")
    assert installed_torch(tmp_path / "version.py") is None
    assert installed_torch(tmp_path / "missing.py") is None


def test_the_installed_torch_is_described_as_it_describes_itself() -> None:
    build = installed_torch()
    assert build is not None
    assert build.version == torch.__version__
    assert build.runtime("cuda") == torch.version.cuda
