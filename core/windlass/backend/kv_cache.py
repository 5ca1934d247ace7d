"""The KV cache's shape (from the model), layout (from the backend) and memory (a pool)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from windlass.kernels.kv_quantization import indexable

SCALE_DTYPE = torch.float32


@dataclass(frozen=True, kw_only=True)
class KVSpec:
    """What one layer stores per token: `num_kv_heads` keys and values of `head_dim` numbers.

    `dtype` is the model's, or fp8 (`Capabilities.fp8_dtype`), or `torch.int8`, to which belongs a
    float32 scale for each token and head: `windlass.kernels.kv_quantization`.
    """

    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def has_scales(self) -> bool:
        """Whether a stored number is to be multiplied with its head's scale."""
        return self.dtype == torch.int8

    @property
    def head_bytes(self) -> int:
        """Bytes of one token's key, or value, in one head."""
        scale = SCALE_DTYPE.itemsize if self.has_scales else 0
        return self.head_dim * self.dtype.itemsize + scale


@dataclass(frozen=True, kw_only=True)
class KVLayout:
    """How a backend wants the cache to lie in memory; stored with the pool, never a global.

    `order` permutes the logical axes: L layer, B block, N slot in the block, H head, C channel
    (last axis fastest). `kv` "split" keeps all keys before all values; "packed" puts a token's
    key and value side by side on the channel axis. Scales, where there are any, stand before all
    numbers, those of keys first, in the same order without C. A backend whose layout is no
    permutation says `canonical=False`, overrides `views` (a block's axis stays in front) and
    `Attention.export_blocks` and `import_blocks`.
    """

    order: str = "LBNHC"
    kv: Literal["split", "packed"] = "split"
    block_size: int = 16
    slot_dtype: torch.dtype = torch.int64
    align: int = 256
    canonical: bool = True

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted("LBNHC"):
            raise ValueError(f"order must be a permutation of 'LBNHC', not {self.order!r}")

    def with_block_size(self, block_size: int) -> KVLayout:
        """The same layout with blocks of another size."""
        return replace(self, block_size=block_size)

    def block_bytes(self, spec: KVSpec, num_layers: int) -> int:
        """Bytes of one block over all layers, keys and values."""
        return 2 * num_layers * self.block_size * spec.num_kv_heads * spec.head_bytes

    def views(
        self, buffer: torch.Tensor, spec: KVSpec, num_layers: int, num_blocks: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cut a uint8 buffer into keys and values, one logical `[B, N, H, C]` view a layer."""
        buffer = buffer[self._scale_bytes(spec, num_layers, num_blocks) :]
        packed = self.kv == "packed"
        channels = spec.head_dim * (2 if packed else 1)
        sizes = {
            "L": num_layers,
            "B": num_blocks,
            "N": self.block_size,
            "H": spec.num_kv_heads,
            "C": channels,
        }
        shape = [sizes[axis] for axis in self.order]
        numbers = buffer.view(spec.dtype)
        logical = [self.order.index(axis) for axis in "LBNHC"]
        count = math.prod(shape)
        first = numbers[:count].view(shape).permute(logical)
        if packed:
            keys, values = first[..., : spec.head_dim], first[..., spec.head_dim :]
        else:
            keys, values = first, numbers[count : 2 * count].view(shape).permute(logical)
        return list(keys.unbind(0)), list(values.unbind(0))

    def scale_views(
        self, buffer: torch.Tensor, spec: KVSpec, num_layers: int, num_blocks: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cut the scales of keys and values out of the buffer: `[B, N, H]` a layer, or none."""
        if not spec.has_scales:
            return [], []
        sizes = {"L": num_layers, "B": num_blocks, "N": self.block_size, "H": spec.num_kv_heads}
        order = self.order.replace("C", "")
        scales = buffer[: self._scale_bytes(spec, num_layers, num_blocks)].view(SCALE_DTYPE)
        scales = scales.view(2, *(sizes[axis] for axis in order))
        logical = [0, *(order.index(axis) + 1 for axis in "LBNH")]
        keys, values = scales.permute(logical).unbind(0)
        return list(keys.unbind(0)), list(values.unbind(0))

    def _scale_bytes(self, spec: KVSpec, num_layers: int, num_blocks: int) -> int:
        heads = num_layers * num_blocks * self.block_size * spec.num_kv_heads
        return 2 * heads * SCALE_DTYPE.itemsize if spec.has_scales else 0


@dataclass(kw_only=True)
class KVPool:
    """A reserved KV cache: `keys[layer]` and `values[layer]` are `[B, N, H, C]` views of `buffer`.

    `key_scales[layer]` and `value_scales[layer]` are float32 `[B, N, H]`, without a layer where
    the spec has no scales. Block 0 is the null block: padding may read it, nothing relies on what
    it holds.
    """

    spec: KVSpec
    layout: KVLayout
    num_layers: int
    num_blocks: int
    buffer: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    key_scales: list[torch.Tensor]
    value_scales: list[torch.Tensor]

    @property
    def parts(self) -> list[torch.Tensor]:
        """Everything that belongs to a block: views with B in front, fp8 as bytes."""
        numbers = [indexable(view) for view in (*self.keys, *self.values)]
        return [*numbers, *self.key_scales, *self.value_scales]

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self.layout.block_size

    @classmethod
    def carve(
        cls, buffer: torch.Tensor, spec: KVSpec, layout: KVLayout, num_layers: int, num_blocks: int
    ) -> KVPool:
        """Make a pool from a buffer of `num_blocks * layout.block_bytes(spec, num_layers)`."""
        keys, values = layout.views(buffer, spec, num_layers, num_blocks)
        key_scales, value_scales = layout.scale_views(buffer, spec, num_layers, num_blocks)
        return cls(
            spec=spec,
            layout=layout,
            num_layers=num_layers,
            num_blocks=num_blocks,
            buffer=buffer,
            keys=keys,
            values=values,
            key_scales=key_scales,
            value_scales=value_scales,
        )

    def segments(self, block_id: int) -> list[tuple[int, int]]:
        """Contiguous (offset, length) byte ranges of one block in `buffer`, in order.

        All that a transfer connector needs; holds for canonical layouts.
        """
        starts = torch.cat([_byte_offsets(view[block_id]) for view in self.parts])
        starts = (starts - int(self.buffer.storage_offset())).sort().values
        breaks = torch.nonzero(starts.diff() != 1).flatten() + 1
        runs = torch.tensor_split(starts, breaks.tolist())
        return [(int(run[0]), len(run)) for run in runs]


def _byte_offsets(block: torch.Tensor) -> torch.Tensor:
    """Where each byte of a strided tensor lies in its storage, flat int64."""
    offsets = torch.tensor([block.storage_offset()])
    for size, stride in zip(block.shape, block.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(size) * stride).flatten()
    return (offsets[:, None] * block.itemsize + torch.arange(block.itemsize)).flatten()
