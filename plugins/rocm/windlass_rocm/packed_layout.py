"""A KV cache packed for AMD's own paged attention: 16 bytes of a key's channels side by side.

With x = 16 / bytes of a number, N slots in a block, D channels, a block has keys `[D / x, N, x]`
and values `[D, N]` of each head: a lane loads 16 bytes of a key at once, and neighbours load
neighbouring tokens (PagedAttention: Kwon et al., 2023). aiter reads this layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from windlass.backend import SUPPORTED, KVLayout, KVPool, KVSpec, Support
from windlass.kernels.kv_quantization import indexable, quantize_kv

_PACK_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class PackedKVLayout(KVLayout):
    """Layer, block, head, then as above; all keys before all values. Blocks stay in front."""

    order: str = "LBHNC"
    canonical: bool = False

    @staticmethod
    def supports(spec: KVSpec) -> Support:
        """Heads whose channels fill whole packs, without scales."""
        pack = _PACK_BYTES // spec.dtype.itemsize
        if spec.has_scales:
            return Support.no("the packed layout has no place for scales")
        if spec.head_dim % pack:
            return Support.no(f"{spec.head_dim} channels do not fill packs of {pack}")
        return SUPPORTED

    def views(
        self, buffer: torch.Tensor, spec: KVSpec, num_layers: int, num_blocks: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of each layer keys `[B, H, D / x, N, x]` and values `[B, H, D, N]`.

        Raises:
            ValueError: such a cache cannot be packed.
        """
        refused = self.supports(spec)
        if not refused:
            raise ValueError(refused.reason)
        pack = _PACK_BYTES // spec.dtype.itemsize
        numbers = buffer.view(spec.dtype)
        heads = (num_layers, num_blocks, spec.num_kv_heads)
        count = num_layers * num_blocks * spec.num_kv_heads * spec.head_dim * self.block_size
        keys = numbers[:count].view(*heads, spec.head_dim // pack, self.block_size, pack)
        values = numbers[count : 2 * count].view(*heads, spec.head_dim, self.block_size)
        return list(keys.unbind(0)), list(values.unbind(0))


def write_packed(
    pool: KVPool,
    layer: int,
    key: torch.Tensor,
    value: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Store `key` and `value` `[T, H, D]`; padding goes to slot 0, on which nobody relies."""
    keys, values = indexable(pool.keys[layer]), indexable(pool.values[layer])
    slots = slot_mapping.clamp(min=0).long()
    blocks, offsets = slots // pool.block_size, slots % pool.block_size
    tokens, heads, dim = key.shape
    stored = indexable(quantize_kv(key, pool.spec.dtype)[0])
    keys[blocks, :, :, offsets] = stored.view(tokens, heads, dim // keys.shape[-1], -1)
    values[blocks, :, :, offsets] = indexable(quantize_kv(value, pool.spec.dtype)[0])


def export_packed(pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
    """Blocks `[n]` in the common form `[n, 2, N, H, D]`, fp8 as bytes."""
    keys = indexable(pool.keys[layer])[block_ids].permute(0, 3, 1, 2, 4).flatten(3)
    values = indexable(pool.values[layer])[block_ids].permute(0, 3, 1, 2)
    return torch.stack((keys, values), dim=1)


def import_packed(pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor) -> None:
    """Store blocks given in the common form."""
    keys, values = indexable(pool.keys[layer]), indexable(pool.values[layer])
    numbers = indexable(blocks)
    split = numbers[:, 0].unflatten(-1, (-1, keys.shape[-1]))
    keys[block_ids] = split.permute(0, 2, 3, 1, 4)
    values[block_ids] = numbers[:, 1].permute(0, 2, 3, 1)
