"""What a plugin tells about one chip, so that Triton's kernels run well on it.

`TritonTuning` is the one object between the shared parts of a backend and a chip. Tiles of
attention must be given for every chip. All else has a default that runs anywhere: whoever has
measured overrides a table or a rule.

Methods say the same for the same arguments and may take their time: the parts ask before the first
step, or once for every kind of call, and keep the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import triton

from windlass.backend.capabilities import SUPPORTED, Support
from windlass.backend.triton import expert_tiles as experts
from windlass.backend.triton import linear_tiles as linear
from windlass.backend.triton import quantized_tiles as quantized
from windlass.backend.triton.launch_arguments import LaunchArguments, added
from windlass.config import Quantization
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.fused_linear import LinearConfig
from windlass.kernels.triton.launch import LaunchConfig, RowConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig
from windlass.kernels.triton.quantized_linear import QuantizedConfig, unpacked
from windlass.kernels.triton.routing import RouteConfig
from windlass.kernels.triton.sampling import SampleConfig
from windlass.kernels.triton.write_kv import HeadConfig

_PER_LANE = 8
"""Numbers of 16 bits that a lane moves at a time: 16 bytes."""
_MANY_TOKENS = 1024
_LARGEST_NORM_THREADS = 512
_Entry = TypeVar("_Entry")


def up_to(table: Mapping[int, _Entry], size: int) -> _Entry:
    """The entry of the smallest key that is not less than `size`."""
    return next(entry for key, entry in sorted(table.items()) if size <= key)


@dataclass(frozen=True, kw_only=True)
class PrefillRule:
    """Chunks of `min_query_len` tokens and more go to `provider`.

    `whole_prompt` True: only those without cached tokens before them; False: only those with some.
    """

    provider: str
    whole_prompt: bool
    min_query_len: int
    max_head_dim: int = 256


class TritonTuning(ABC):
    """How the kernels are launched on one chip.

    `arch` is the chip's name in the plugin's words ("sm_90", "gfx942"), `units` how many compute
    units it has (those that hold programs), `device_type` torch's name of the device whose tensors
    the kernels get. A subclass sets what differs:

    Attributes:
        has_ops: the chip runs the kernels of the ops; else torch does what attention does not.
        lanes: of a warp (the wavefront's or sub-group's size).
        has_fp8: the chip converts e4m3 numbers.
        fp8_dtype: their format, in which an fp8 cache is kept.
        mm_gives_float32: `torch.mm(a, b, out_dtype=torch.float32)` works for 16-bit operands.
        most_rows: rows beyond which `linear_config` always leaves it to the vendor's library.
        measured_linear: by (outputs, inputs, rows rounded up to a power of two) the tiles that
            were measured; None: the vendor's library.
        measured_fused: the same for a product with the norm before it, with whether it is gated
            as the last part of the key; outputs are those after the gate. None: not worth fusing.
        prefill_rules: who else takes chunks of a prompt, in order of preference.
        unpack: turns words of a rounded weight into numbers: that of
            `windlass.kernels.triton.quantized_linear`, or a chip's own in its place.
        may_spill: names of kernel specs whose registers are known not to suffice.
    """

    has_ops: bool = True
    lanes: int = 32
    has_fp8: bool = False
    fp8_dtype: torch.dtype = torch.float8_e4m3fn
    mm_gives_float32: bool = False
    most_rows: int = 64
    measured_linear: Mapping[tuple[int, int, int], linear.Tiles | None] = {}
    measured_fused: Mapping[tuple[int, int, int, bool], linear.Tiles | None] = {}
    prefill_rules: Sequence[PrefillRule] = ()
    unpack: Any = unpacked
    may_spill: frozenset[str] = frozenset()

    def __init__(self, arch: str, units: int, device_type: str) -> None:
        self.arch = arch
        self.units = units
        self.device_type = device_type

    def launch_arguments(self) -> LaunchArguments:
        """What every launch is told: options for Triton, and how launches overlap."""
        return {}

    def expects(self, kernel: str, rows: int) -> frozenset[str]:
        """Instructions that a kernel must contain, in the words of the plugin's inspection.

        `kernel` is "prefill", "linear", "quantized" or "experts", a product of 16-bit numbers whose
        left operand has `rows` rows.
        """
        del kernel, rows
        return frozenset()

    def supports_kv(self, dtype: torch.dtype) -> Support:
        """Whether a cache of `dtype`, which is not the model's, can be read and written."""
        if dtype == self.fp8_dtype:
            return SUPPORTED if self.has_fp8 else Support.no(f"{self.arch} cannot convert fp8")
        return Support.no(f"the kernels read no cache of {dtype}")

    def supports_quantization(self, quantization: Quantization) -> Support:
        """Whether weights in this format can be multiplied."""
        if quantization == "fp8" and not self.has_fp8:
            return Support.no(f"{self.arch} cannot convert fp8")
        return SUPPORTED

    # Attention.

    @abstractmethod
    def decode_config(
        self, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> DecodeConfig:
        """Decodes of heads of `head_dim` channels: a model of `dtype`, a cache of `kv_dtype`."""

    @abstractmethod
    def prefill_config(self, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
        """Chunks, with `group` query heads of `head_dim` channels to a key-value head.

        `query_rows` is at least `group` rounded up to a power of two.
        """

    def prefill_providers(self, head_dim: int, query_len: int, seq_len: int) -> list[str]:
        """Providers for a chunk of `query_len` tokens, the last of `seq_len`, best first."""
        return [
            rule.provider
            for rule in self.prefill_rules
            if query_len >= rule.min_query_len
            and head_dim <= rule.max_head_dim
            and rule.whole_prompt == (query_len == seq_len)
        ]

    def gather_config(self) -> LaunchConfig:
        """The copy of keys and values out of the cache."""
        return LaunchConfig(num_warps=4, num_stages=1, **self.launch_arguments())

    # Rows: a lane moves 16 bytes at a time, and a row or a tile of heads takes as many warps as
    # that makes, so that few programs still keep many loads in flight.

    def norm_config(self, size: int) -> LaunchConfig:
        """Norms over rows of `size` numbers, a row a program."""
        wanted = triton.next_power_of_2(size) // (self.lanes * _PER_LANE)
        warps = min(max(wanted, 1), _LARGEST_NORM_THREADS // self.lanes)
        return LaunchConfig(num_warps=warps, **self.launch_arguments())

    def head_config(self, dim: int, tokens: int) -> HeadConfig:
        """Rotation and the cache write: heads of `dim` channels.

        `tokens` is rounded down to a power of two. Few want many programs, many larger ones.
        """
        warps = 2 if tokens >= _MANY_TOKENS else 1
        numbers = warps * 2 * self.lanes * _PER_LANE
        heads = max(numbers // triton.next_power_of_2(dim), 1)
        return HeadConfig(heads=heads, num_warps=warps, **self.launch_arguments())

    def activation_config(self) -> RowConfig:
        """SwiGLU."""
        return RowConfig(block=1024, num_warps=self._warps(128), **self.launch_arguments())

    def step_config(self) -> RowConfig:
        """A decode step's first work, by columns of the block table."""
        return RowConfig(block=1024, num_warps=self._warps(128), **self.launch_arguments())

    def sample_config(self) -> SampleConfig:
        """Choosing tokens."""
        return SampleConfig(
            block=4096,
            group=64,
            kept=512,
            num_warps=self._warps(128),
            choose_warps=self._warps(256),
            **self.launch_arguments(),
        )

    def vocabulary_config(self) -> RowConfig:
        """One pass over the vocabulary, token by token: penalties, masks."""
        return RowConfig(block=1024, num_warps=self._warps(128), **self.launch_arguments())

    def logprobs_config(self) -> RowConfig:
        """Log-probabilities."""
        return RowConfig(block=4096, num_warps=self._warps(256), **self.launch_arguments())

    # Weights.

    def linear_config(self, rows: int, outputs: int, inputs: int) -> LinearConfig | None:
        """`rows` of x and a 16-bit weight `[outputs, inputs]`; None: the vendor's library.

        Without a measurement, few rows are multiplied without matrix instructions.
        """
        if not 0 < rows <= self.most_rows:
            return None
        block_m = linear.padded_rows(rows)
        key = (outputs, inputs, block_m)
        if key in self.measured_linear:
            return self._linear(self.measured_linear[key])
        if block_m > linear.VECTOR_ROWS:
            return None
        tiles = linear.vector_tiles(block_m, outputs, inputs, self.lanes, gated=False)
        return self._linear(tiles)

    def fused_config(
        self, rows: int, outputs: int, inputs: int, *, gated: bool
    ) -> LinearConfig | None:
        """A norm and the product after it; None: not worth fusing.

        With `gated` the weight is `[2 * outputs, inputs]`, and a gate stands after the product.
        """
        block_m = linear.padded_rows(rows)
        key = (outputs, inputs, block_m, gated)
        if key in self.measured_fused:
            return self._linear(self.measured_fused[key])
        if not linear.worth_fusing(block_m, inputs):
            return None
        tiles = linear.vector_tiles(block_m, outputs, inputs, self.lanes, gated=gated)
        return self._linear(tiles)

    def quantized_tiles(self, quantization: Quantization) -> Sequence[quantized.QuantizedTile]:
        """Tiles of products with rounded weights, from the fewest rows to the most."""
        del quantization
        return quantized.SMALL_TILES

    def quantized_config(
        self, quantization: Quantization, rows: int, channels: int, inputs: int
    ) -> QuantizedConfig:
        """`rows` of x and a rounded weight `[channels, inputs]`."""
        tile = quantized.tile_for(self.quantized_tiles(quantization), rows)
        return quantized.config_of(
            tile, self.units, rows, channels, inputs, self.launch_arguments(), self.unpack
        )

    def route_config(self) -> RouteConfig:
        """The choice of experts."""
        return RouteConfig(tokens=4, num_warps=self._warps(128), **self.launch_arguments())

    def expert_tiles(self, itemsize: int) -> Sequence[experts.ExpertTiles]:
        """Tiles of experts in a dtype of `itemsize` bytes: see `ExpertTiles` for their order."""
        return experts.FLOAT32_TILES if itemsize == 4 else experts.SMALL_TILES

    def expert_choices(self, itemsize: int) -> Sequence[experts.ExpertChoice]:
        """`expert_tiles` as the kernels take them."""
        arguments = self.launch_arguments()
        return [experts.expert_choice(row, arguments) for row in self.expert_tiles(itemsize)]

    def _linear(self, tiles: linear.Tiles | None) -> LinearConfig | None:
        if tiles is None:
            return None
        return added(LinearConfig(**tiles._asdict()), self.launch_arguments())

    def _warps(self, threads: int) -> int:
        return max(threads // self.lanes, 1)


def remembered_head_config(tuning: TritonTuning) -> Callable[[int, int], HeadConfig]:
    """`tuning.head_config`, asked once for each power of two of tokens, and looked up by both."""
    by_power = cache(tuning.head_config)
    return cache(lambda dim, tokens: by_power(dim, 1 << tokens.bit_length() >> 1))
