"""Decodes by aiter's paged attention (https://github.com/ROCm/aiter), over a packed cache.

Written against the signature of `paged_attention_rocm` in aiter/ops/attention.py as of 2026, and
never run: aiter builds its kernels on an AMD GPU. It is imported only when a decode goes there.
"""

from __future__ import annotations

from functools import cache

import torch

from windlass.backend import SUPPORTED, AttentionBatch, AttentionParams, KVPool, Support
from windlass_rocm.arch import Architecture, Family

BLOCK_SIZE = 16
"""Tokens in a block that its kernel takes (or 32)."""
_HEAD_DIMS = (64, 128)
_LARGEST_GROUP = 16
_PARTITION = 256
"""Tokens of a sequence that a program takes; partial results are added up afterwards."""


def supports_decode(
    chip: Architecture, pool: KVPool, dtype: torch.dtype, num_heads: int, params: AttentionParams
) -> Support:
    """What aiter's kernel takes: CDNA, 16-bit models, plain causal attention."""
    spec = pool.spec
    if chip.family is not Family.CDNA:
        return Support.no("aiter's paged attention is for CDNA")
    if dtype.itemsize != 2 or spec.dtype != dtype:
        return Support.no("only a cache in a 16-bit model's own dtype goes to aiter")
    if spec.head_dim not in _HEAD_DIMS or num_heads // spec.num_kv_heads > _LARGEST_GROUP:
        return Support.no(f"aiter takes heads of {_HEAD_DIMS} in groups of {_LARGEST_GROUP}")
    if params.window or params.softcap or params.sinks is not None:
        return Support.no("aiter's paged attention has no window, softcap or sinks")
    return SUPPORTED


def decode(
    pool: KVPool,
    layer: int,
    query: torch.Tensor,
    batch: AttentionBatch,
    params: AttentionParams,
    out: torch.Tensor,
) -> None:
    """Attention of the batch's decodes, the first rows of `query` `[T, Hq, D]`, into `out`."""
    import aiter

    rows = batch.num_decodes
    num_heads, head_dim = query.shape[1:]
    partitions = -(-batch.max_seq_len // _PARTITION)
    sums = torch.empty((rows, num_heads, partitions), dtype=torch.float32, device=query.device)
    partial = torch.empty(
        (rows, num_heads, partitions, head_dim), dtype=out.dtype, device=query.device
    )
    one = _one(query.device)
    aiter.paged_attention_rocm(
        out[:rows],
        sums,
        torch.empty_like(sums),
        partial,
        query[:rows],
        pool.keys[layer],
        pool.values[layer],
        pool.spec.num_kv_heads,
        params.scale,
        batch.block_table[:rows],
        batch.seq_lens[:rows],
        pool.block_size,
        batch.max_seq_len,
        None,  # no ALiBi
        "auto",
        one,
        one,
        None,
        _PARTITION,
    )


@cache
def _one(device: torch.device) -> torch.Tensor:
    """A scale of 1 for keys and values."""
    return torch.ones(1, dtype=torch.float32, device=device)
