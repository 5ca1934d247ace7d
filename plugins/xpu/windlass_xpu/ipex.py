"""The backend "ipex": paged attention of Intel Extension for PyTorch, on its XPU or CPU build.

Both builds have one class, `ipex.llm.modules.PagedAttention`, and unlike caches behind it: the
CPU's kernels read `[B, H, N, D]`, the XPU's `[B, N, H, D]` (its one-query kernel a third form, so
here its chunk kernel takes decodes as well). Only the CPU build was run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from windlass.backend import (
    Attention,
    AttentionBatch,
    AttentionParams,
    BackendConfig,
    GraphSupport,
    KVLayout,
    KVPool,
    KVSpec,
    Support,
    TorchBackend,
)
from windlass.plugin import BackendSpec, OpProvider
from windlass_xpu.ipex_library import ipex_module

_FEATURES = frozenset({"gqa", "window", "softcap"})
"""No sinks and no lse: the extension has no argument for them."""
_OFF = -1
"""What the extension takes for no window, and for no softcap."""


class IpexBackend(TorchBackend):
    """Torch's operations, with the extension's attention and, where it has them, its ops."""

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        super().__init__(spec, config, arch=arch, op_providers=op_providers)
        self.capabilities = replace(self.capabilities, attention=_FEATURES, preferred_block_size=32)
        self.attention = IpexAttention(spec.device_type)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """What the build's kernels read."""
        del spec
        return (kv_layout(self.spec.device_type, self.capabilities.preferred_block_size),)


def kv_layout(device_type: str, block_size: int) -> KVLayout:
    """The cache of the build for `device_type`; slots are int32."""
    order = "LBHNC" if device_type == "cpu" else "LBNHC"
    return KVLayout(order=order, block_size=block_size, slot_dtype=torch.int32)


@dataclass(kw_only=True)
class _Rows:
    """Requests that go to one kernel: the rows `first` to `end` of the step."""

    tokens: slice
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    cu_seqlens_q: torch.Tensor
    cu_seqlens_kv: torch.Tensor
    max_query_len: int
    max_seq_len: int


@dataclass(kw_only=True)
class _Plan:
    """Decodes for the kernel of one query, chunks for that of many; either may be none."""

    decodes: _Rows | None
    chunks: _Rows | None


class IpexAttention(Attention):
    """Paged attention by the extension, in float32, bfloat16 or float16."""

    def __init__(self, device_type: str) -> None:
        self._on_host = device_type == "cpu"
        self._order = kv_layout(device_type, 1).order
        self._kernels: Any = ipex_module("llm.modules").PagedAttention

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """A cache of the model's dtype in the build's own layout, without sinks."""
        if graph is not GraphSupport.NONE:
            return Support.no("the extension's kernels are not captured in graphs")
        if params.sinks is not None:
            return Support.no("the extension has no attention sinks")
        if params.window == 1:
            return Support.no("the extension takes a window of one token for no window")
        if layout.order != self._order or layout.kv != "split" or not layout.canonical:
            return Support.no(
                f"the extension reads split keys and values in the order {self._order}, "
                f"not {layout.kv} ones in {layout.order}"
            )
        if layout.slot_dtype is not torch.int32:
            return Support.no(f"the extension's slots are int32, not {layout.slot_dtype}")
        # Its fp8 is e5m2, Windlass's e4m3.
        return super().supports(spec, layout, dtype, params, graph)

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Say which kernel takes which rows; lengths are those that the host knows."""
        del pool, capture
        split = batch.num_decodes if self._on_host else 0
        return _Plan(decodes=_rows(batch, 0, split), chunks=_rows(batch, split, batch.num_requests))

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """One call of the extension. It does not skip padding but writes before the cache, so
        padding goes to slot 0, in the null block that nobody relies on.

        Raises:
            ValueError: keys and values differ in shape. The extension would not notice, and write
                past the end of the cache.
        """
        if key.shape != value.shape:
            raise ValueError(
                f"keys {tuple(key.shape)} and values {tuple(value.shape)} must have one shape"
            )
        kernels = self._kernels
        write = kernels.reshape_and_cache if self._on_host else kernels.reshape_and_cache_flash
        keys, values = self._cache(pool.keys[layer]), self._cache(pool.values[layer])
        write(key, value, keys, values, slot_mapping.clamp(min=0))

    def run(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        plan: object,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None = None,
    ) -> None:
        """A call for the decodes, a call for the chunks.

        Raises:
            ValueError: `lse` is wanted, which the extension does not tell.
        """
        assert isinstance(plan, _Plan)
        if lse is not None:
            raise ValueError("the extension does not tell the softmax denominator (lse)")
        keys, values = self._cache(pool.keys[layer]), self._cache(pool.values[layer])
        if plan.decodes is not None:
            self._decode(query, keys, values, plan.decodes, params, out)
        if plan.chunks is not None:
            self._attend(query, keys, values, plan.chunks, params, out)

    def _cache(self, side: torch.Tensor) -> torch.Tensor:
        """A layer's `[B, N, H, D]` view as the kernels want it."""
        return side.transpose(1, 2) if self._on_host else side

    def _decode(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: _Rows,
        params: AttentionParams,
        out: torch.Tensor,
    ) -> None:
        num_kv_heads, block_size = keys.shape[1], keys.shape[2]
        self._kernels.single_query_cached_kv_attention(
            out[rows.tokens],
            query[rows.tokens],
            keys,
            values,
            _key_head_of(query.shape[1], num_kv_heads),
            params.scale,
            rows.block_table,
            rows.seq_lens,
            block_size,
            rows.max_seq_len,
            None,
            window_size=params.window or _OFF,
            softcap=params.softcap or float(_OFF),
        )

    def _attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: _Rows,
        params: AttentionParams,
        out: torch.Tensor,
    ) -> None:
        self._kernels.flash_attn_varlen_func(
            out[rows.tokens],
            query[rows.tokens],
            keys,
            values,
            rows.cu_seqlens_q,
            rows.cu_seqlens_kv,
            rows.max_query_len,
            rows.max_seq_len,
            params.scale,
            True,
            rows.block_table,
            None,
            # Here a window does not count the query itself.
            window_size_left=params.window - 1 if params.window else _OFF,
            softcap=params.softcap or float(_OFF),
        )


@cache
def _key_head_of(num_heads: int, num_kv_heads: int) -> torch.Tensor:
    """For each query head the key-value head that it reads: int32 `[Hq]` on the host."""
    heads = torch.arange(num_kv_heads, dtype=torch.int32)
    return heads.repeat_interleave(num_heads // num_kv_heads)


def _rows(batch: AttentionBatch, first: int, end: int) -> _Rows | None:
    """The requests `first` to `end` by themselves; None when there are none."""
    if first == end:
        return None
    starts, lengths = batch.cu_seqlens_q_cpu, batch.seq_lens_cpu[first:end]
    seq_lens = batch.seq_lens[first:end]
    before = torch.zeros(1, dtype=torch.int32, device=seq_lens.device)
    return _Rows(
        tokens=slice(starts[first], starts[end]),
        block_table=batch.block_table[first:end].contiguous(),
        seq_lens=seq_lens,
        cu_seqlens_q=batch.cu_seqlens_q[first : end + 1] - starts[first],
        cu_seqlens_kv=torch.cat((before, seq_lens.cumsum(0, dtype=torch.int32))),
        max_query_len=max(starts[row + 1] - starts[row] for row in range(first, end)),
        max_seq_len=max(lengths),
    )
