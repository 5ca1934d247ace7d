"""How the kernels are launched on which NVIDIA chip, and who prefills.

The loop over tiles of attention looks a block up before it reads it, so a pipeline of 2 n + 1
stages has n tiles under way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from windlass.backend import Quantization, Support
from windlass.backend.triton.attention_tiles import DecodeTiles, PrefillTiles
from windlass.backend.triton.expert_tiles import ExpertTiles
from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.backend.triton.quantized_tiles import QuantizedTile
from windlass.backend.triton.tuning import PrefillRule, TritonTuning, up_to
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig
from windlass_cuda import expert_tuning, linear_tuning, quantized_tuning
from windlass_cuda.conversions import unpacked_to_bf16
from windlass_cuda.overlap import overlap

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""Chips with entries of their own; those after each take its entries, from sm_120 on sm_80's.

So sm_80's must fit the 99 KiB of shared memory of sm_86, sm_89 and sm_120.
"""

_FIRST_SMALL_BLACKWELL = 120
_FIRST_WITH_FP8 = 89
_FIRST_WITH_OPS = 80

PREFILL_RULES: dict[str, tuple[PrefillRule, ...]] = {
    "sm_80": (
        PrefillRule(provider="torch_flash", whole_prompt=True, min_query_len=512),
        PrefillRule(provider="torch_flash", whole_prompt=False, min_query_len=512),
    ),
    "sm_90": (
        PrefillRule(provider="cudnn", whole_prompt=True, min_query_len=4096, max_head_dim=128),
    ),
    "sm_100": (
        PrefillRule(provider="cudnn", whole_prompt=True, min_query_len=512, max_head_dim=128),
    ),
}
"""In order of preference; chunks without a rule go to Triton's kernel."""

# Behind the programs of a multiprocessor: the tiles that a program takes at least.
_DECODE = {
    "sm_80": {
        64: DecodeTiles(64, 4, 5, 3),
        128: DecodeTiles(64, 4, 3, 3),
        256: DecodeTiles(64, 4, 3, 2),
    },
    "sm_90": {
        64: DecodeTiles(64, 4, 5, 3, 4),
        128: DecodeTiles(64, 4, 5, 3, 4),
        256: DecodeTiles(64, 4, 3, 2, 4),
    },
    "sm_100": {
        64: DecodeTiles(64, 4, 5, 3),
        128: DecodeTiles(64, 4, 5, 3),
        256: DecodeTiles(64, 4, 3, 2),
    },
}
# Two warps have no registers left for padded channels, or to widen fp8.
_DECODE_PLAIN = {"sm_90": {64: DecodeTiles(64, 2, 3, 4), 128: DecodeTiles(64, 2, 3, 4)}}
"""Heads of exactly so many channels, whose cache is of the model's dtype."""
_DECODE_FLOAT32 = {
    64: DecodeTiles(32, 4, 3, 2, 4),
    128: DecodeTiles(32, 4, 3, 2, 4),
    256: DecodeTiles(16, 4, 3, 2, 8),
}

_PREFILL = {
    "sm_80": {
        64: PrefillTiles(128, 64, 8, 3),
        128: PrefillTiles(128, 32, 8, 3),
        256: PrefillTiles(64, 32, 8, 3),
    },
    "sm_90": {
        64: PrefillTiles(128, 64, 4, 3),
        128: PrefillTiles(128, 64, 8, 3),
        256: PrefillTiles(128, 32, 8, 3),
    },
    "sm_100": {
        64: PrefillTiles(128, 64, 4, 3),
        128: PrefillTiles(128, 64, 8, 3),
        256: PrefillTiles(128, 32, 8, 3),
    },
}
# Products of float32 are no work for tensor cores.
_PREFILL_FLOAT32 = {256: PrefillTiles(32, 16, 8, 1)}

_MATRIX_INSTRUCTIONS = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}
_WGMMA_ROWS = 64


def known(arch: str) -> str:
    """The architecture whose entries `arch` ("sm_90") takes."""
    number = int(arch.removeprefix("sm_"))
    if number >= _FIRST_SMALL_BLACKWELL:
        return ARCHITECTURES[0]
    before = [name for name in ARCHITECTURES if int(name.removeprefix("sm_")) <= number]
    return before[-1] if before else ARCHITECTURES[0]


class CudaTuning(TritonTuning):
    """An NVIDIA chip `arch` ("sm_90") with so many multiprocessors as `units`."""

    unpack = unpacked_to_bf16
    may_spill = frozenset({"paged prefill 128 x 5 bf16"})
    """Rows divide by such a group of heads with more registers: a few spill on sm_80."""

    def __init__(self, arch: str, units: int, device_type: str = "cuda") -> None:
        super().__init__(arch, units, device_type)
        number = int(arch.removeprefix("sm_"))
        self.has_ops = number >= _FIRST_WITH_OPS
        self.has_fp8 = number >= _FIRST_WITH_FP8
        self.mm_gives_float32 = device_type == "cuda"
        self.measured_linear = linear_tuning.MEASURED.get(arch, {})
        self.measured_fused = linear_tuning.MEASURED_FUSED.get(arch, {})
        self.prefill_rules = PREFILL_RULES[known(arch)]

    def launch_arguments(self) -> LaunchArguments:
        """Launches overlap where the chip can."""
        return overlap(self.arch)

    def expects(self, kernel: str, rows: int) -> frozenset[str]:
        """The chip's matrix instruction in attention; wgmma in all products tall enough for it."""
        if kernel == "prefill":
            return frozenset({_MATRIX_INSTRUCTIONS[known(self.arch)]})
        wgmma = self.arch == "sm_90" and rows >= _WGMMA_ROWS
        return frozenset({"wgmma"}) if wgmma else frozenset()

    def decode_config(
        self, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> DecodeConfig:
        """By channels; heads of exactly 64 or 128 have an entry of their own on some chips."""
        if dtype == torch.float32:
            entry = up_to(_DECODE_FLOAT32, head_dim)
        else:
            plain = _DECODE_PLAIN.get(known(self.arch), {}) if dtype == kv_dtype else {}
            entry = plain.get(head_dim) or up_to(_DECODE[known(self.arch)], head_dim)
        return entry.config(self.launch_arguments())

    def prefill_config(self, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
        """By channels."""
        table = _PREFILL_FLOAT32 if dtype == torch.float32 else _PREFILL[known(self.arch)]
        return up_to(table, head_dim).config(group, self.launch_arguments())

    def supports_quantization(self, quantization: Quantization) -> Support:
        """All formats; fp8 where the chip converts it."""
        if quantization == "fp8" and not self.has_fp8:
            return Support.no(
                "fp8 weights need compute capability 8.9 or later to be converted, and this GPU "
                f"is {self.arch}"
            )
        return super().supports_quantization(quantization)

    def quantized_tiles(self, quantization: Quantization) -> Sequence[QuantizedTile]:
        """With fewer stages where shared memory is small."""
        return quantized_tuning.tiles_of(self.arch, quantization)

    def expert_tiles(self, itemsize: int) -> Sequence[ExpertTiles]:
        """By the size of shared memory."""
        tiles = expert_tuning.tiles_of(self.arch)
        return tiles if itemsize == 2 else super().expert_tiles(itemsize)
