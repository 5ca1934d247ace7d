"""Causal attention of prompt chunks over a paged cache (FlashAttention-2: Dao, 2023).

A program has a tile of query tokens with all G query heads of one key-value head, so that a group
reads its keys once and a short chunk still fills a tile. The tiles of all chunks share a grid, the
most work first. A chunk's queries are the last tokens of its sequence. R rows, Hq query heads, Hkv
key-value heads, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.attention_tile import (
    attend_tiles,
    cache_of,
    finish_rows,
    lowest_visible,
    padded_channels,
)
from windlass.kernels.triton.launch import LaunchConfig


@dataclass(frozen=True, kw_only=True)
class PrefillConfig(LaunchConfig):
    """`query_rows`: rows of a tile, each a token and a head. `tile`: tokens in a tile of keys.

    `chunk`: channels of queries and keys multiplied at a time, a power of 2; 0: all at once, with
    the queries kept in registers.
    """

    query_rows: int = 128
    tile: int = 64
    chunk: int = 0


_ANY_ALIGNMENT = ("query_tiles", "cu_seqlens_q", "seq_lens", "block_table")
"""Parts of larger buffers, at another offset in every step: no variant for each."""


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def paged_prefill_kernel(
    query, keys, values, out, lse, sinks, query_tiles, cu_seqlens_q, seq_lens, block_table,
    scale, query_row_stride, query_head_stride, out_row_stride, out_head_stride,
    lse_row_stride, table_stride, block_stride, token_stride, head_stride,
    num_kv_heads: tl.constexpr, group: tl.constexpr, query_rows: tl.constexpr,
    head_dim: tl.constexpr, channels: tl.constexpr, chunk: tl.constexpr,
    window: tl.constexpr, softcap: tl.constexpr, tile: tl.constexpr, block_size: tl.constexpr,
    packed: tl.constexpr, wait: tl.constexpr, release: tl.constexpr,
):  # fmt: skip
    """One tile of queries: first the keys that all its rows see, then those that some see."""
    wait()
    release()
    tile_tokens: tl.constexpr = query_rows // group
    item = tl.program_id(0) // num_kv_heads
    kv_head = tl.program_id(0) % num_kv_heads
    row = tl.load(query_tiles + 2 * item)
    first = tl.load(query_tiles + 2 * item + 1)
    row_start = tl.load(cu_seqlens_q + row)
    query_len = tl.load(cu_seqlens_q + row + 1) - row_start
    seq_len = tl.load(seq_lens + row)
    lane = tl.arange(0, query_rows)
    channel = tl.arange(0, channels)
    token = first + lane // group
    live = (lane < tile_tokens * group) & (token < query_len)
    heads = kv_head * group + lane % group
    history = seq_len - query_len
    position = history + token
    query_row = (row_start + token).to(tl.int64)
    query_at = query + (query_row * query_row_stride + heads * query_head_stride)[:, None]
    query_tile = tl.load(
        query_at + channel[None, :],
        mask=live[:, None] & (channel[None, :] < head_dim),
        other=0.0,
    )
    lowest = lowest_visible(history + first, window)
    begin = lowest // tile * tile
    end = history + tl.minimum(first + tile_tokens, query_len)
    table = block_table + row.to(tl.int64) * table_stride
    head_keys = keys + kv_head * head_stride
    head_values = values + kv_head * head_stride
    total = tl.zeros((query_rows, channels), dtype=tl.float32)
    largest = tl.full((query_rows,), -float("inf"), dtype=tl.float32)
    denominator = tl.zeros((query_rows,), dtype=tl.float32)
    if window == 0:
        seen_by_all = (history + first + 1) // tile * tile
        total, largest, denominator = attend_tiles(
            query_tile, query_at, live, position, total, largest, denominator, head_keys,
            head_values, table, begin, seen_by_all, lowest, seq_len, scale, block_stride,
            token_stride, window, softcap, False, head_dim, channels, chunk, tile, block_size,
            packed,
        )  # fmt: skip
        begin = seen_by_all
    total, largest, denominator = attend_tiles(
        query_tile, query_at, live, position, total, largest, denominator, head_keys, head_values,
        table, begin, end, lowest, seq_len, scale, block_stride, token_stride,
        window, softcap, True, head_dim, channels, chunk, tile, block_size, packed,
    )  # fmt: skip
    finish_rows(
        total, largest, denominator, heads, live, out, lse, sinks,
        query_row * out_row_stride + heads * out_head_stride, query_row * lse_row_stride + heads,
        head_dim, channels,
    )  # fmt: skip


def list_query_tiles(
    rows: Sequence[int],
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    group: int,
    config: PrefillConfig,
) -> list[tuple[int, int]]:
    """Tiles of the chunks of `rows`: (row, first query token in the chunk), most keys first.

    `query_lens` and `seq_lens` are those of `rows`.
    """
    step = config.query_rows // group
    tiles = [
        (row, first, seq_len - query_len + first)
        for row, query_len, seq_len in zip(rows, query_lens, seq_lens, strict=True)
        for first in range(0, query_len, step)
    ]
    tiles.sort(key=lambda tile: -tile[2])
    return [tile[:2] for tile in tiles]


@cache
def prefill_constants(
    config: PrefillConfig,
    *,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    window: int,
    softcap: float,
    packed: int = 0,
) -> dict[str, object]:
    """The constants of `paged_prefill_kernel` for a layer of this shape."""
    channels = padded_channels(head_dim)
    return {
        "num_kv_heads": num_kv_heads,
        "group": group,
        "query_rows": config.query_rows,
        "head_dim": head_dim,
        "channels": channels,
        "chunk": min(config.chunk or channels, channels),
        "window": window,
        "softcap": softcap,
        "tile": config.tile,
        "block_size": block_size,
        "packed": packed,
        "wait": config.wait,
        "release": config.release,
    }


def paged_prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    query_tiles: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    config: PrefillConfig,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> None:
    """Attention of the listed tiles of `query` `[T, Hq, D]` over the cache into `out`.

    `query_tiles` int32 `[n, 2]` holds what `list_query_tiles` returns; `keys` and `values` are
    `[B, N, Hkv, D]`, or packed (`attention_tile.Cache`), of the query's dtype or fp8;
    `cu_seqlens_q` int32 `[R+1]`, `seq_lens` int32 `[R]`, `block_table` int32 `[R, M]`. `lse` is
    float32 `[T, Hq]`. Rows without a tile are not written. Meaning of window, softcap and sinks:
    `windlass.backend.AttentionParams`.
    """
    cache = cache_of(keys, values)
    paged_prefill_kernel[(len(query_tiles) * cache.num_kv_heads,)](
        query,
        keys,
        values,
        out,
        lse,
        sinks,
        query_tiles,
        cu_seqlens_q,
        seq_lens,
        block_table,
        scale,
        query.stride(0),
        query.stride(1),
        out.stride(0),
        out.stride(1),
        0 if lse is None else lse.stride(0),
        block_table.stride(0),
        cache.block_stride,
        cache.token_stride,
        cache.head_stride,
        **prefill_constants(
            config,
            num_kv_heads=cache.num_kv_heads,
            group=query.shape[1] // cache.num_kv_heads,
            head_dim=cache.head_dim,
            block_size=cache.block_size,
            packed=cache.packed,
            window=window,
            softcap=softcap,
        ),
        **config.launch_options(),
    )
