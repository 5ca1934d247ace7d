"""How attention is launched on each chip, and the tables of all other kernels.

Nothing here was timed: tiles were chosen by what the compiler says (`docs/kernels.md`). First, no
vector register may spill; then come occupancy and the bytes under way. Registers are those of a
lane, of 512 on CDNA (256 and as many accumulators) and 256 on RDNA; occupancy is in wavefronts a
SIMD, of 8 on CDNA and 16 on RDNA.

Triton lets all wavefronts multiply the same 16 query rows of a decode with all keys of a tile, so a
lane needs registers for a whole tile of keys however many wavefronts there are. The first WMMA
(gfx11) needs its operands twice besides, and float32 has no WMMA at all: there queries and keys are
multiplied some channels at a time (`chunk`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from windlass.backend import Quantization
from windlass.backend.triton.attention_tiles import DecodeTiles, PrefillTiles
from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.backend.triton.quantized_tiles import QuantizedTile
from windlass.backend.triton.tuning import TritonTuning, up_to
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig
from windlass_rocm.arch import Architecture, Family, architecture_of
from windlass_rocm.conversions import unpacked_by_fnuz

# Up to so many channels. Behind an entry: registers, occupancy, KiB of local data share.
_CDNA_DECODE = {
    64: DecodeTiles(64, 4, 2, 3),  # 139, 3, 16
    128: DecodeTiles(64, 4, 2, 2),  # 193, 2, 32
    256: DecodeTiles(32, 4, 2, 2),  # 175, 2, 32
}
_CDNA_PREFILL = {
    64: PrefillTiles(128, 64, 4, 2),  # 236, 2, 16
    128: PrefillTiles(128, 32, 4, 2),  # 208, 2, 32
    256: PrefillTiles(64, 32, 4, 2),  # 224, 2, 32
}
_DECODE: dict[str, Mapping[int, DecodeTiles]] = {
    "gfx90a": _CDNA_DECODE,
    "gfx942": _CDNA_DECODE,
    "gfx950": _CDNA_DECODE,
    "gfx1100": {
        64: DecodeTiles(64, 4, 1, 4, chunk=32),  # 162, 9, 8
        128: DecodeTiles(32, 4, 2, 4, chunk=64),  # 193, 7, 8
        256: DecodeTiles(16, 4, 1, 4, chunk=64),  # 180, 8, 8
    },
    "gfx1201": {
        64: DecodeTiles(64, 4, 1, 4),  # 188, 8, 8
        128: DecodeTiles(32, 4, 2, 4),  # 194, 7, 8
        256: DecodeTiles(16, 4, 2, 4),  # 225, 6, 16
    },
}
_PREFILL: dict[str, Mapping[int, PrefillTiles]] = {
    "gfx90a": _CDNA_PREFILL,
    "gfx942": _CDNA_PREFILL,
    "gfx950": _CDNA_PREFILL,
    "gfx1100": {
        64: PrefillTiles(128, 32, 8, 1, chunk=32),  # 152, 9, 8
        128: PrefillTiles(64, 32, 8, 1, chunk=64),  # 180, 8, 8
        256: PrefillTiles(64, 32, 8, 1, chunk=64),  # 225, 6, 16
    },
    "gfx1201": {
        64: PrefillTiles(128, 32, 8, 2),  # 147, 9, 16
        128: PrefillTiles(128, 32, 8, 2),
        256: PrefillTiles(64, 32, 8, 1),
    },
}

_MFMA_ROWS = {64: 32, 128: 32, 256: 16}
"""Of a matrix instruction in a prefill on CDNA, up to so many channels."""

# MFMA multiplies float32 exactly; RDNA has no matrix instruction for it.
_FLOAT32_DECODE: dict[Family, Mapping[int, DecodeTiles]] = {
    Family.CDNA: {128: DecodeTiles(32, 4, 2, 2), 256: DecodeTiles(16, 4, 1, 2)},
    Family.RDNA: {
        64: DecodeTiles(16, 8, 1, 2, chunk=16),
        128: DecodeTiles(32, 4, 1, 2, chunk=16),
        256: DecodeTiles(16, 8, 1, 2, chunk=16),
    },
}
_FLOAT32_PREFILL: dict[Family, Mapping[int, PrefillTiles]] = {
    Family.CDNA: {128: PrefillTiles(64, 32, 4, 1), 256: PrefillTiles(32, 16, 4, 1)},
    Family.RDNA: {
        64: PrefillTiles(32, 16, 8, 1, chunk=32),
        128: PrefillTiles(32, 16, 4, 1, chunk=16),
        256: PrefillTiles(32, 16, 8, 1, chunk=16),
    },
}


# int8 and int4 are widened on the way, which takes registers: one stage, and half the tile.
_RDNA_QUANTIZED = (
    QuantizedTile(16, 64, 4, 2, 4),
    QuantizedTile(32, 64, 4, 1, 4),
    QuantizedTile(64, 64, 4, 1, 3),
)


class RocmTuning(TritonTuning):
    """An AMD chip `arch` ("gfx942") with `units` compute units, on RDNA workgroup processors."""

    def __init__(self, arch: str, units: int, device_type: str = "cuda") -> None:
        super().__init__(arch, units, device_type)
        self.chip: Architecture = architecture_of(arch)
        self.lanes = self.chip.lanes
        self.has_fp8 = self.chip.fp8 is not None
        if self.chip.fp8 is not None:
            self.fp8_dtype = getattr(torch, self.chip.fp8)
        self.mm_gives_float32 = device_type == "cuda"
        if self.chip.fp8 == "float8_e4m3fnuz":
            self.unpack = unpacked_by_fnuz

    def expects(self, kernel: str, rows: int) -> frozenset[str]:
        """The family's matrix instruction, in every product of 16-bit numbers."""
        del kernel, rows
        return frozenset({self.chip.matrix_instruction})

    def decode_config(
        self, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> DecodeConfig:
        """By channels; the cache's dtype makes no difference."""
        del kv_dtype
        whole = dtype == torch.float32
        table = _FLOAT32_DECODE[self.chip.family] if whole else _DECODE[self.chip.name]
        return up_to(table, head_dim).config(self._arguments(), combine_numbers=2048)

    def prefill_config(self, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
        """By channels."""
        whole = dtype == torch.float32
        table = _FLOAT32_PREFILL[self.chip.family] if whole else _PREFILL[self.chip.name]
        by_choice = not whole and self.chip.family is Family.CDNA
        rows = up_to(_MFMA_ROWS, head_dim) if by_choice else 0
        return up_to(table, head_dim).config(group, self._arguments(rows))

    def quantized_tiles(self, quantization: Quantization) -> Sequence[QuantizedTile]:
        """Smaller ones on RDNA."""
        if self.chip.family is Family.RDNA:
            return _RDNA_QUANTIZED
        return super().quantized_tiles(quantization)

    def _arguments(self, mfma_rows: int = 0) -> LaunchArguments:
        """Of attention; without `mfma_rows` Triton chooses the matrix instruction."""
        options: tuple[tuple[str, Any], ...] = (("kpack", 2),) if self.chip.kpack else ()
        if mfma_rows:
            options += (("matrix_instr_nonkdim", mfma_rows),)
        return {"options": options}
