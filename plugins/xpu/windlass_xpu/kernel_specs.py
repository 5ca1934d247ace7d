"""The plugin's tables for Triton's interpreter.

There is nothing to compile with: Triton's Intel backend comes with XPU builds of torch alone, and
asks the GPU what it is.
"""

from __future__ import annotations

from windlass.testing.triton_kernels import TritonTables
from windlass_xpu.chips import Family
from windlass_xpu.tuning import XpuTuning


class XpuTables(TritonTables):
    """The tables of every family."""

    architectures = tuple(family.value for family in Family)

    def tuning(self, arch: str, units: int, device_type: str) -> XpuTuning:
        """Intel's tables."""
        return XpuTuning(arch, units, device_type)


TABLES = XpuTables()
