"""Keys and values of whole sequences, copied out of a paged cache to lie one after the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.attention_tile import cache_of, padded_channels, token_offsets
from windlass.kernels.triton.launch import LaunchConfig

_TILE = 64


@triton.jit
def gather_kv_kernel(
    keys,
    values,
    gathered_keys,
    gathered_values,
    starts,
    seq_lens,
    block_table,
    table_stride,
    block_stride,
    token_stride,
    head_stride,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    channels: tl.constexpr,
    tile: tl.constexpr,
    block_size: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """One tile of tokens of one head of a row; zeros behind the sequence's end."""
    wait()
    release()
    row = tl.program_id(1)
    kv_head = tl.program_id(2)
    first = tl.program_id(0) * tile
    start = tl.load(starts + row)
    room = tl.load(starts + row + 1) - start
    if first < room:
        seq_len = tl.load(seq_lens + row)
        table = block_table + row.to(tl.int64) * table_stride
        channel = tl.arange(0, channels)
        token = first + tl.arange(0, tile)
        # Behind the end the table may have no entry: a tile there looks up the first one.
        block, inside = token_offsets(
            table,
            tl.where(first < seq_len, first, 0),
            seq_len,
            block_stride,
            token_stride,
            tile,
            block_size,
        )
        source = (block + inside + kv_head * head_stride)[:, None] + channel[None, :]
        held = (token < seq_len)[:, None] & (channel < head_dim)[None, :]
        key = tl.load(keys + source, mask=held, other=0.0)
        value = tl.load(values + source, mask=held, other=0.0)
        target = ((start + token).to(tl.int64) * num_kv_heads + kv_head) * head_dim
        target = target[:, None] + channel[None, :]
        fits = (token < room)[:, None] & (channel < head_dim)[None, :]
        dtype = gathered_keys.dtype.element_ty
        tl.store(gathered_keys + target, key.to(dtype), mask=fits)
        tl.store(gathered_values + target, value.to(dtype), mask=fits)


def gather_kv(
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    total: int,
    longest: int,
    dtype: torch.dtype,
    config: LaunchConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values `[total, Hkv, D]` of `dtype` of R sequences; row r's begin at `starts[r]`.

    `keys` and `values` `[B, N, Hkv, D]`, `starts` int32 `[R+1]`, the last of which is `total`,
    `seq_lens` int32 `[R]`, `block_table` int32 `[R, M]`. A row has room up to the next one's start,
    at most `longest` tokens; what its sequence does not fill is 0.

    Raises:
        ValueError: keys and values are packed, or do not lie alike.
    """
    cache = cache_of(keys, values)
    if cache.packed:
        raise ValueError("packed keys and values are not gathered")
    shape = (total, cache.num_kv_heads, cache.head_dim)
    gathered_keys = torch.empty(shape, dtype=dtype, device=keys.device)
    gathered_values = torch.empty_like(gathered_keys)
    gather_kv_kernel[(triton.cdiv(longest, _TILE), len(seq_lens), cache.num_kv_heads)](
        keys,
        values,
        gathered_keys,
        gathered_values,
        starts,
        seq_lens,
        block_table,
        block_table.stride(0),
        cache.block_stride,
        cache.token_stride,
        cache.head_stride,
        cache.num_kv_heads,
        cache.head_dim,
        padded_channels(cache.head_dim),
        _TILE,
        cache.block_size,
        config.wait,
        config.release,
        **config.launch_options(),
    )
    return gathered_keys, gathered_values
