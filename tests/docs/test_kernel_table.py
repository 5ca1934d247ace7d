"""The generated page of kernels lists the same kernels for the same chips as the plugins."""

import re
from pathlib import Path

import pytest

pytest.importorskip("triton")

from windlass.testing.offline import offline_kernels
from windlass_cuda.plugin import SPEC as CUDA
from windlass_rocm.plugin import SPEC as ROCM

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def listed() -> dict[tuple[str, str], list[str]]:
    """Kernels on the page by backend and chip, in order."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in PAGE.read_text().splitlines():
        if title := re.fullmatch(r"## (\w+): (\w+)", line):
            kernels = found.setdefault((title[1], title[2]), [])
        elif line.startswith("| ") and not line.startswith(("| kernel |", "| --- |")):
            kernels.append(line.split(" | ")[0].removeprefix("| "))
    return found


def test_the_page_has_every_kernel_of_every_chip_and_no_other() -> None:
    expected = {
        (spec.name, arch): [kernel.name for kernel in offline_kernels(spec.offline).specs(arch)]
        for spec in (CUDA, ROCM)
        for arch in offline_kernels(spec.offline).architectures
    }
    assert listed() == expected


def test_no_kernel_on_the_page_failed_to_compile() -> None:
    assert "does not compile" not in PAGE.read_text()
