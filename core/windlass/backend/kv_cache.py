"""The KV cache's shape (from the model), layout (from the backend) and memory (a pool)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch


@dataclass(frozen=True, kw_only=True)
class KVSpec:
    """What one layer stores per token: `num_kv_heads` keys and values of `head_dim` numbers."""

    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class KVLayout:
    """How a backend wants the cache to lie in memory; stored with the pool, never a global.

    `order` permutes the logical axes: L layer, B block, N slot in the block, H head, C channel
    (last axis fastest). `kv` "split" keeps all keys before all values; "packed" puts a token's
    key and value side by side on the channel axis. A backend whose layout is no permutation says
    `canonical=False`, builds the views itself and overrides `Attention.export_blocks`.
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
        numbers = num_layers * self.block_size * spec.num_kv_heads * spec.head_dim
        return 2 * numbers * spec.dtype.itemsize

    def views(
        self, buffer: torch.Tensor, spec: KVSpec, num_layers: int, num_blocks: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cut a uint8 buffer into keys and values, one logical `[B, N, H, C]` view a layer."""
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


@dataclass(kw_only=True)
class KVPool:
    """A reserved KV cache: `keys[layer]` and `values[layer]` are `[B, N, H, C]` views of `buffer`.

    Block 0 is the null block: padding may read it, nothing relies on what it holds.
    """

    spec: KVSpec
    layout: KVLayout
    num_layers: int
    num_blocks: int
    buffer: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

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
        return cls(
            spec=spec,
            layout=layout,
            num_layers=num_layers,
            num_blocks=num_blocks,
            buffer=buffer,
            keys=keys,
            values=values,
        )

    def segments(self, block_id: int) -> list[tuple[int, int]]:
        """Contiguous (offset, length) byte ranges of one block in `buffer`, in order.

        All that a transfer connector needs; holds for canonical layouts.
        """
        numbers = torch.cat([_offsets(view[block_id]) for view in (*self.keys, *self.values)])
        numbers = (numbers - self.buffer.storage_offset() // self.spec.dtype.itemsize).sort().values
        breaks = torch.nonzero(numbers.diff() != 1).flatten() + 1
        runs = torch.tensor_split(numbers, breaks.tolist())
        size = self.spec.dtype.itemsize
        return [(int(run[0]) * size, len(run) * size) for run in runs]


def _offsets(block: torch.Tensor) -> torch.Tensor:
    """Where each number of a strided tensor lies in its storage, flat int64."""
    offsets = torch.tensor([block.storage_offset()])
    for size, stride in zip(block.shape, block.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(size) * stride).flatten()
    return offsets
