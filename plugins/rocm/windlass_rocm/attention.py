"""Paged attention on AMD: the Triton kernels, over the common cache or the packed one."""

from __future__ import annotations

import torch

from windlass.backend import (
    Attention,
    AttentionBatch,
    AttentionParams,
    GraphSupport,
    HeadNorm,
    KVLayout,
    KVPool,
    KVSpec,
    OpRegistry,
    Support,
)
from windlass.backend.triton.attention import TritonAttention
from windlass_rocm import aiter_attention
from windlass_rocm.packed_layout import (
    PackedKVLayout,
    export_packed,
    import_packed,
    write_packed,
)
from windlass_rocm.tuning import RocmTuning


class RocmAttention(TritonAttention):
    """Also reads and writes a packed cache; decodes over one go to aiter, if it is installed.

    Keys and values are packed by torch operations; the Triton kernels attend to either cache.
    """

    def __init__(self, tuning: RocmTuning, *, aiter_installed: bool) -> None:
        super().__init__(tuning)
        self._chip = tuning.chip
        self._aiter_installed = aiter_installed

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """As the Triton kernels; a packed cache also where its channels fill whole packs."""
        if isinstance(layout, PackedKVLayout) and not PackedKVLayout.supports(spec):
            return PackedKVLayout.supports(spec)
        return super().supports(spec, layout, dtype, params, graph)

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """One launch, or a few torch operations that pack."""
        if isinstance(pool.layout, PackedKVLayout):
            write_packed(pool, layer, key, value, slot_mapping)
        else:
            super().write_kv(pool, layer, key, value, slot_mapping)

    def rope_and_write(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        slot_mapping: torch.Tensor,
        norm: HeadNorm | None,
        ops: OpRegistry,
    ) -> torch.Tensor:
        """One launch, or into a packed cache the ops one after the other."""
        packed = isinstance(pool.layout, PackedKVLayout)
        apply = Attention.rope_and_write if packed else TritonAttention.rope_and_write
        return apply(
            self, pool, layer, query, key, value, positions, cos_sin, slot_mapping, norm, ops
        )

    def decoded_elsewhere(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        batch: AttentionBatch,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> bool:
        """Decodes over a packed cache by aiter, where it takes the layer."""
        if not self._aiter_installed or not isinstance(pool.layout, PackedKVLayout):
            return False
        if lse is not None or not aiter_attention.supports_decode(
            self._chip, pool, query.dtype, query.shape[1], params
        ):
            return False
        aiter_attention.decode(pool, layer, query, batch, params, out)
        return True

    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        """Blocks in the common form, whatever the layout."""
        if isinstance(pool.layout, PackedKVLayout):
            return export_packed(pool, layer, block_ids)
        return super().export_blocks(pool, layer, block_ids)

    def import_blocks(
        self, pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor
    ) -> None:
        """Store blocks given in the common form."""
        if isinstance(pool.layout, PackedKVLayout):
            import_packed(pool, layer, block_ids, blocks)
        else:
            super().import_blocks(pool, layer, block_ids, blocks)
