"""Generated attention inputs: a filled pool, a step over it, and what the oracle makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from windlass.backend import (
    Attention,
    AttentionBatch,
    AttentionParams,
    Backend,
    KVLayout,
    KVPool,
    KVSpec,
    TorchAttention,
)
from windlass.kernels.attention import paged_attention

LAYER = 1
"""The layer of the pool that holds the step's keys and values; layer 0 holds nothing."""


@dataclass
class PagedStep:
    """A step over a pool whose blocks are permuted; `keys[r]` is `[S_r, Hkv, D]` in order.

    `readable` is the pool if its layout is canonical, else one that holds the same.
    """

    pool: KVPool
    readable: KVPool
    batch: AttentionBatch
    query: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    def run(
        self, attention: Attention, params: AttentionParams, lse: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What `attention` computes, into an output that starts as NaN."""
        plan = attention.plan(self.batch, self.pool)
        attention.plan_in_graph(plan)
        out = torch.full_like(self.query, torch.nan)
        attention.run(self.pool, LAYER, self.query, plan, params, out, lse)
        return out

    def expected(self, params: AttentionParams) -> tuple[torch.Tensor, torch.Tensor]:
        """What the oracle computes: (output, lse)."""
        pool = self.readable
        return paged_attention(
            self.query,
            pool.keys[LAYER],
            pool.values[LAYER],
            cu_seqlens_q=self.batch.cu_seqlens_q_cpu,
            seq_lens=self.batch.seq_lens_cpu,
            block_table=self.batch.block_table,
            scale=params.scale,
            window=params.window,
            softcap=params.softcap,
            sinks=params.sinks,
            key_scales=pool.key_scales[LAYER] if pool.spec.has_scales else None,
            value_scales=pool.value_scales[LAYER] if pool.spec.has_scales else None,
        )


def build_step(
    backend: Backend,
    *,
    query_lens: list[int],
    seq_lens: list[int],
    layout: KVLayout | None = None,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    kv_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> PagedStep:
    """Random keys and values in permuted blocks, written through the backend's `write_kv`.

    Whatever is not written is NaN (of int8 its scale): a kernel that lets it matter shows it.
    `kv_dtype` is what the cache stores, without it `dtype`. Decodes (query length
    1) must come first, as in every step.
    """
    generator = torch.Generator().manual_seed(seed)
    device = backend.device.torch_device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    spec = KVSpec(num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=kv_dtype or dtype)
    layout = layout or backend.kv_layouts(spec)[0]
    size = layout.block_size
    counts = [-(-length // size) for length in seq_lens]
    num_blocks = sum(counts) + 1
    pool = _pool_of_nan(spec, layout, num_blocks, device)
    readable = pool
    if not layout.canonical:
        plain = KVLayout(block_size=size, slot_dtype=layout.slot_dtype)
        readable = _pool_of_nan(spec, plain, num_blocks, device)
    table = _permuted_tables(counts, num_blocks, generator).to(device)
    keys, values = [], []
    for r, length in enumerate(seq_lens):
        position = torch.arange(length, device=device)
        slots = table[r, position // size].long() * size + position % size
        keys.append(normal(length, num_kv_heads, head_dim))
        values.append(normal(length, num_kv_heads, head_dim))
        slots = slots.to(layout.slot_dtype)
        backend.attention.write_kv(pool, LAYER, keys[r], values[r], slots)
        if readable is not pool:
            TorchAttention().write_kv(readable, LAYER, keys[r], values[r], slots)
    cu_seqlens = [sum(query_lens[:i]) for i in range(len(query_lens) + 1)]
    decodes = (i for i, length in enumerate(query_lens) if length != 1)
    batch = AttentionBatch(
        cu_seqlens_q=torch.tensor(cu_seqlens, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=device),
        block_table=table,
        slot_mapping=torch.full((cu_seqlens[-1],), -1, dtype=layout.slot_dtype, device=device),
        num_decodes=next(decodes, len(query_lens)),
        max_query_len=max(query_lens),
        max_seq_len=max(seq_lens),
        cu_seqlens_q_cpu=cu_seqlens,
        seq_lens_cpu=seq_lens,
    )
    query = normal(cu_seqlens[-1], num_heads, head_dim)
    return PagedStep(pool, readable, batch, query, keys, values)


def _pool_of_nan(spec: KVSpec, layout: KVLayout, num_blocks: int, device: torch.device) -> KVPool:
    nbytes = num_blocks * layout.block_bytes(spec, LAYER + 1)
    buffer = torch.full((nbytes,), nan_byte(spec.dtype), dtype=torch.uint8, device=device)
    return KVPool.carve(buffer, spec, layout, LAYER + 1, num_blocks)


def nan_byte(dtype: torch.dtype) -> int:
    """The byte of which numbers of `dtype` that are NaN can be made: 255 but in one format.

    float8_e4m3fnuz has one NaN, in the place of -0.
    """
    return 128 if dtype == torch.float8_e4m3fnuz else 255


def _permuted_tables(
    counts: list[int], num_blocks: int, generator: torch.Generator
) -> torch.Tensor:
    """Disjoint blocks in random order for each request; unused entries are the null block."""
    order = torch.randperm(num_blocks - 1, generator=generator) + 1
    table = torch.zeros(len(counts), max(counts), dtype=torch.int32)
    start = 0
    for r, count in enumerate(counts):
        table[r, :count] = order[start : start + count]
        start += count
    return table
