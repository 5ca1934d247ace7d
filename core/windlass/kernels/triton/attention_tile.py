"""What the attention kernels share: a tile of keys, the running softmax, the end of a row.

The softmax runs over tiles (Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022), in
base 2, because chips have an instruction for that. M query rows, N tokens in a tile, D channels
padded to a power of two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALLEST_DOT = 16
"""The fewest rows and channels that a product of tiles takes."""


def padded_channels(head_dim: int) -> int:
    """Channels of a head in a tile: a power of two."""
    return int(max(SMALLEST_DOT, triton.next_power_of_2(head_dim)))


class Cache(NamedTuple):
    """How one layer's keys and values lie: sizes, and distances in numbers.

    `packed` 0: keys and values are alike, channels side by side. Else keys are `[B, Hkv, D / x, N,
    x]` with x = `packed` channels side by side, values `[B, Hkv, D, N]`.
    """

    block_size: int
    num_kv_heads: int
    head_dim: int
    packed: int
    block_stride: int
    token_stride: int
    head_stride: int


def cache_of(keys: torch.Tensor, values: torch.Tensor) -> Cache:
    """How `keys` and `values` lie: both `[B, N, Hkv, D]`, or packed.

    Raises:
        ValueError: keys and values differ, or the channels of a head are not side by side.
    """
    if keys.dim() == 5:
        blocks, num_kv_heads, groups, block_size, packed = keys.shape
        head_dim = groups * packed
        alike = values.shape == (blocks, num_kv_heads, head_dim, block_size)
        if not alike or keys.stride(0) != values.stride(0) or keys.stride(1) != values.stride(1):
            raise ValueError("packed keys and values must have blocks and heads alike")
        if not keys[0, 0].is_contiguous() or not values[0, 0].is_contiguous():
            raise ValueError("a head's block of packed keys or values must lie in one piece")
        return Cache(block_size, num_kv_heads, head_dim, packed, keys.stride(0), 1, keys.stride(1))
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys and values must have the same strides, and adjacent channels")
    _, block_size, num_kv_heads, head_dim = keys.shape
    return Cache(block_size, num_kv_heads, head_dim, 0, *keys.stride()[:3])


@triton.jit
def lowest_visible(position, window: tl.constexpr):
    """The first key position that a query at `position` sees."""
    return position * 0 if window == 0 else tl.maximum(position - window + 1, 0)


@triton.jit
def product(a, b, total):
    """`total + a @ b` in float32; float32 factors are not rounded to tf32."""
    if a.dtype == tl.float32:
        total = tl.dot(a, b, total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total)
    return total


@triton.jit
def cap(scores, softcap: tl.constexpr):
    """`softcap * tanh(scores / softcap)`, without overflow; 0: as they are."""
    if softcap != 0.0:
        grown = tl.exp2(scores * (2.0 * LOG2E / softcap))
        scores = softcap * (1.0 - 2.0 / (grown + 1.0))
    return scores


@triton.jit
def token_offsets(
    table,
    start,
    seq_len,
    block_stride,
    token_stride,
    tile: tl.constexpr,
    block_size: tl.constexpr,
):
    """Where the tokens from `start`, a multiple of `tile`, lie: offset of the block, and in it.

    The first is one int64 for a tile that is a part of one block, else one for each token. Entries
    of the table beyond the sequence are not read.
    """
    lane = tl.arange(0, tile)
    if block_size % tile == 0:
        block = tl.load(table + start // block_size)
        inside = (start % block_size + lane) * token_stride
    else:
        token = start + lane
        block = tl.load(table + token // block_size, mask=token < seq_len, other=0)
        inside = (token % block_size) * token_stride
    return block.to(tl.int64) * block_stride, inside


@triton.jit
def key_channels(channel, packed: tl.constexpr, block_size: tl.constexpr):
    """Where channels of a key lie, counted from its first: see `Cache`."""
    if packed != 0:
        channel = channel // packed * (block_size * packed) + channel % packed
    return channel


@triton.jit
def tile_scores(
    query,
    query_at,
    live,
    key_at,
    head_dim: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    tile: tl.constexpr,
    block_size: tl.constexpr,
    packed: tl.constexpr,
):
    """Products `[M, N]` of query rows with the keys at `key_at` `[N, 1]`.

    `query` `[M, D]` is multiplied whole where `chunk` is `channels`; else the rows that are `live`
    are read again, so many channels at a time, from `query_at` `[M, 1]`.
    """
    scores = tl.zeros((query.shape[0], tile), dtype=tl.float32)
    if chunk == channels:
        channel = tl.arange(0, channels)
        key_at += key_channels(channel, packed, block_size)[None, :]
        if channels == head_dim:
            key = tl.load(key_at)
        else:
            key = tl.load(key_at, mask=channel[None, :] < head_dim, other=0.0)
        scores = product(query, tl.trans(key.to(query.dtype)), scores)
    else:
        # A loop that stays one: unrolled, it would hold all chunks at once again.
        for first in tl.range(0, channels, chunk):
            channel = first + tl.arange(0, chunk)
            held = channel[None, :] < head_dim
            part = tl.load(query_at + channel[None, :], mask=live[:, None] & held, other=0.0)
            inside = key_channels(channel, packed, block_size)[None, :]
            key = tl.load(key_at + inside, mask=held, other=0.0)
            scores = product(part, tl.trans(key.to(part.dtype)), scores)
    return scores


@triton.jit
def attend_tiles(
    query,
    query_at,
    live,
    position,
    total,
    largest,
    denominator,
    keys,
    values,
    table,
    begin,
    end,
    lowest,
    seq_len,
    scale,
    block_stride,
    token_stride,
    window: tl.constexpr,
    softcap: tl.constexpr,
    masked: tl.constexpr,
    head_dim: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    tile: tl.constexpr,
    block_size: tl.constexpr,
    packed: tl.constexpr,
):
    """Let `query` `[M, D]` at `position` `[M]` or `[1]` attend to the tokens of `[begin, end)`.

    `query_at`, `live` and `chunk` are those of `tile_scores`, `begin` is a multiple of `tile`.
    Where `masked`, tokens that no row sees (below `lowest`, or at `seq_len` and beyond) are not
    read as values, for they may be NaN. Returns the new weighted sum of values `[M, D]`, the
    largest score in base 2 `[M]`, and the denominator `[M]`.
    """
    channel = tl.arange(0, channels)
    lane = tl.arange(0, tile)
    for start in range(begin, end, tile):
        start = tl.multiple_of(start, tile)  # noqa: PLW2901
        block, inside = token_offsets(
            table, start, seq_len, block_stride, token_stride, tile, block_size
        )
        token = start + lane
        if packed == 0:
            key_at = (keys + block + inside)[:, None]
            value_at = (values + block + inside)[:, None] + channel[None, :]
        else:
            key_at = (keys + block + inside * packed)[:, None]
            value_at = (values + block + inside)[:, None] + (channel * block_size)[None, :]
        scores = tile_scores(
            query, query_at, live, key_at, head_dim, channels, chunk, tile, block_size, packed
        )
        scores = cap(scores * scale, softcap) * LOG2E
        if masked:
            seen = token[None, :] <= position[:, None]
            if window != 0:
                seen = seen & (token[None, :] > position[:, None] - window)
            scores = tl.where(seen, scores, -float("inf"))
            held = ((token >= lowest) & (token < seq_len))[:, None]
            value = tl.load(value_at, mask=held & (channel[None, :] < head_dim), other=0.0)
        elif channels == head_dim:
            value = tl.load(value_at)
        else:
            value = tl.load(value_at, mask=channel[None, :] < head_dim, other=0.0)
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        # A row that has seen nothing yet: -inf less -inf is not a number.
        reference = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        weights = tl.exp2(scores - reference[:, None])
        shrink = tl.exp2(largest - reference)
        denominator = denominator * shrink + tl.sum(weights, 1)
        total = total * shrink[:, None]
        total = product(weights.to(query.dtype), value.to(query.dtype), total)
        largest = new_largest
    return total, largest, denominator


@triton.jit
def finish_rows(
    total,
    largest,
    denominator,
    head,
    live,
    out,
    lse,
    sinks,
    out_offset,
    lse_offset,
    head_dim: tl.constexpr,
    channels: tl.constexpr,
):
    """Divide, and write the rows that are `live` `[M]`: output and, where wanted, the lse.

    `head` `[M]` is the query head of each row, `out_offset` int64 and `lse_offset` `[M]` say where
    it goes. A sink takes its share of the denominator and has no value (Xiao et al., 2023).
    """
    channel = tl.arange(0, channels)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=live, other=0.0) * LOG2E
        new_largest = tl.maximum(largest, sink)
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink[:, None]
        denominator = denominator * shrink + tl.exp2(sink - new_largest)
        largest = new_largest
    # Rows that are not live may have seen nothing.
    divisor = tl.where(denominator > 0.0, denominator, 1.0)
    result = total / divisor[:, None]
    tl.store(
        out + out_offset[:, None] + channel[None, :],
        result.to(out.dtype.element_ty),
        mask=live[:, None] & (channel[None, :] < head_dim),
    )
    if lse is not None:
        natural = (largest + tl.log2(divisor)) / LOG2E
        tl.store(lse + lse_offset, natural, mask=live)
