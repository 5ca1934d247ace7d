"""How the kernels are launched on which Intel GPU.

Nothing here was run or compiled: Triton's Intel backend comes with XPU builds of torch alone. The
entries follow from the size of the register file. Triton lets every sub-group of a product have 8
query rows, or a multiple, and a whole tile of keys. Where there are matrix units it takes 16 lanes,
and registers in large mode are 16 KiB: a tile of keys (8 KiB), the running sum of 8 rows (4 KiB at
128 channels), their queries (2 KiB) and scores.

A row of keys is to be loaded as a two-dimensional block, which wants rows of whole 64 bytes: so the
cache is head by head (a head's keys follow each other), and a tile is part of one block of 64
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from windlass.backend.triton.attention_tiles import DecodeTiles, PrefillTiles
from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.backend.triton.tuning import TritonTuning, up_to
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig
from windlass_xpu.chips import Family

_LANES = {Family.XE_LP: 16, Family.XE_HPG: 16, Family.XE_HPC: 32, Family.XE2: 32}
"""Of kernels without products: so many that a lane has room for 64 numbers of 32 bits."""

# With matrix units, up to so many channels. Stages are how far ahead tiles are prefetched; the 16
# rows of a decode are two sub-groups' work.
_DECODE: Mapping[int, DecodeTiles] = {
    64: DecodeTiles(64, 2, 2, 8),
    128: DecodeTiles(32, 2, 2, 8),
    256: DecodeTiles(16, 2, 2, 8),
}
_PREFILL: Mapping[int, PrefillTiles] = {
    64: PrefillTiles(128, 64, 16, 3),
    128: PrefillTiles(128, 32, 16, 3),
    256: PrefillTiles(128, 16, 16, 2, chunk=64),
}
# Without, and for float32, which matrix units would round: few numbers a lane.
_PLAIN_DECODE: Mapping[int, DecodeTiles] = {256: DecodeTiles(16, 8, 1, 4, chunk=16)}
_PLAIN_PREFILL: Mapping[int, PrefillTiles] = {256: PrefillTiles(32, 16, 8, 1, chunk=16)}


class XpuTuning(TritonTuning):
    """A GPU of the family `arch` ("xe2") with so many Xe cores as `units`.

    No family converts e4m3 numbers in hardware, so there is no fp8.
    """

    def __init__(self, arch: str, units: int, device_type: str = "xpu") -> None:
        super().__init__(arch, units, device_type)
        self.family = Family(arch)
        self.lanes = _LANES[self.family]

    def launch_arguments(self) -> LaunchArguments:
        """The sub-group's size; kernels with products for matrix units take 16 by themselves."""
        return {"options": (("warp_size", self.lanes),)}

    def decode_config(
        self, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> DecodeConfig:
        """By channels."""
        del kv_dtype
        table = _DECODE if self._multiplies(dtype) else _PLAIN_DECODE
        return up_to(table, head_dim).config(self._attention_arguments())

    def prefill_config(self, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
        """By channels."""
        table = _PREFILL if self._multiplies(dtype) else _PLAIN_PREFILL
        return up_to(table, head_dim).config(group, self._attention_arguments())

    def _multiplies(self, dtype: torch.dtype) -> bool:
        """Whether Triton multiplies `dtype` with this family's matrix units."""
        return dtype != torch.float32 and self.family in (Family.XE_HPC, Family.XE2)

    def _attention_arguments(self) -> LaunchArguments:
        """Twice the registers for half the sub-groups, where the chip has that."""
        options = self.launch_arguments().get("options", ())
        if self.family is not Family.XE_LP:
            options += (("grf_mode", "256"),)
        return {"options": options}
