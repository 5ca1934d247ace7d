"""Rotary position embedding (Su et al., 2021), fused with head norms and the write to the cache.

T tokens, Hq query and Hkv key-value heads of D channels, of which the first `rot` are rotated,
halves against each other. A program takes a few heads of one token, so that a head's norm and both
of its halves stand in registers. Numbers are rounded to the model's dtype wherever the ops
`rms_norm` and `rope` round them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.backend.attention import HeadNorm
from windlass.kernels.triton.norm import scaled
from windlass.kernels.triton.write_kv import HeadConfig, load_part, store_part


@triton.jit
def _scaled(part, inverse, weight, start, DTYPE: tl.constexpr, SIZE: tl.constexpr):
    """A part of normalised heads times its weights, rounded twice as the op `rms_norm` does."""
    channel = tl.arange(0, part.shape[1])
    factors = tl.load(weight + start + channel, mask=channel < SIZE, other=0.0).to(tl.float32)
    return scaled(part, inverse[:, None], factors[None, :], DTYPE).to(DTYPE).to(tl.float32)


@triton.jit
def _load_rotated(
    pointer,
    offsets,
    valid,
    cos_sin,
    weight,
    eps,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    TAIL_BLOCK: tl.constexpr,
    NORM: tl.constexpr,
):
    """Some heads, normalised and rotated: first half, second half and the rest, float32.

    All are numbers of the model's dtype. `cos_sin` points to the row of the token's position.
    """
    dtype: tl.constexpr = pointer.dtype.element_ty
    first = load_part(pointer, offsets, valid, 0, HALF, HALF_BLOCK)
    second = load_part(pointer, offsets, valid, HALF, HALF, HALF_BLOCK)
    tail = load_part(pointer, offsets, valid, 2 * HALF, TAIL, TAIL_BLOCK)
    channel = tl.arange(0, HALF_BLOCK)
    cos = tl.load(cos_sin + channel, mask=channel < HALF, other=0.0)[None, :]
    sin = tl.load(cos_sin + HALF + channel, mask=channel < HALF, other=0.0)[None, :]
    if NORM:
        squares = tl.sum(first * first + second * second, axis=1) + tl.sum(tail * tail, axis=1)
        inverse = tl.rsqrt(squares / (2 * HALF + TAIL) + eps)
        first = _scaled(first, inverse, weight, 0, dtype, HALF)
        second = _scaled(second, inverse, weight, HALF, dtype, HALF)
        tail = _scaled(tail, inverse, weight, 2 * HALF, dtype, TAIL)
    rotated_first = (first * cos - second * sin).to(dtype).to(tl.float32)
    rotated_second = (second * cos + first * sin).to(dtype).to(tl.float32)
    return rotated_first, rotated_second, tail


@triton.jit
def _store_heads(
    pointer,
    offsets,
    valid,
    first,
    second,
    tail,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    TAIL_BLOCK: tl.constexpr,
):
    """Store what `_load_rotated` gives."""
    store_part(pointer, offsets, valid, 0, first, HALF, HALF_BLOCK)
    store_part(pointer, offsets, valid, HALF, second, HALF, HALF_BLOCK)
    if TAIL > 0:
        store_part(pointer, offsets, valid, 2 * HALF, tail, TAIL, TAIL_BLOCK)


@triton.jit
def rope_kernel(
    query,
    key,
    query_out,
    key_out,
    positions,
    cos_sin,
    query_stride,
    key_stride,
    head_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    TAIL_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The op `rope`: grid (T, groups of query heads, then groups of key heads)."""
    wait()
    release()
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    query_groups: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    dim: tl.constexpr = 2 * HALF + TAIL
    row = cos_sin + tl.load(positions + token).to(tl.int64) * (2 * HALF)
    if group < query_groups:
        head = group * HEADS + tl.arange(0, HEADS)
        valid = head < NUM_HEADS
        first, second, tail = _load_rotated(
            query + token * query_stride, head * head_stride, valid, row, query, 0.0,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK, False,
        )  # fmt: skip
        _store_heads(
            query_out + token * (NUM_HEADS * dim), head * dim, valid, first, second, tail,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK,
        )  # fmt: skip
    else:
        head = (group - query_groups) * HEADS + tl.arange(0, HEADS)
        valid = head < NUM_KV_HEADS
        first, second, tail = _load_rotated(
            key + token * key_stride, head * head_stride, valid, row, key, 0.0,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK, False,
        )  # fmt: skip
        _store_heads(
            key_out + token * (NUM_KV_HEADS * dim), head * dim, valid, first, second, tail,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK,
        )  # fmt: skip


@triton.jit
def rope_and_write_kernel(
    query,
    key,
    value,
    positions,
    cos_sin,
    key_cache,
    value_cache,
    slot_mapping,
    query_weight,
    key_weight,
    eps,
    query_stride,
    key_stride,
    value_stride,
    head_stride,
    cache_block_stride,
    cache_slot_stride,
    cache_head_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    TAIL_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (T, groups of query heads, then groups of key-value heads); the query in place."""
    wait()
    release()
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    query_groups: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    row = cos_sin + tl.load(positions + token).to(tl.int64) * (2 * HALF)
    if group < query_groups:
        head = group * HEADS + tl.arange(0, HEADS)
        valid = head < NUM_HEADS
        base = query + token * query_stride
        first, second, tail = _load_rotated(
            base, head * head_stride, valid, row, query_weight, eps,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK, NORM,
        )  # fmt: skip
        _store_heads(
            base, head * head_stride, valid, first, second, tail,
            HALF, HALF_BLOCK, TAIL, TAIL_BLOCK,
        )  # fmt: skip
    else:
        slot = tl.load(slot_mapping + token).to(tl.int64)
        if slot >= 0:
            head = (group - query_groups) * HEADS + tl.arange(0, HEADS)
            valid = head < NUM_KV_HEADS
            start = slot // BLOCK_SIZE * cache_block_stride + slot % BLOCK_SIZE * cache_slot_stride
            numbers = load_part(
                value + token * value_stride, head * head_stride, valid, 0,
                2 * HALF + TAIL, DIM_BLOCK,
            )  # fmt: skip
            first, second, tail = _load_rotated(
                key + token * key_stride, head * head_stride, valid, row, key_weight, eps,
                HALF, HALF_BLOCK, TAIL, TAIL_BLOCK, NORM,
            )  # fmt: skip
            store_part(
                value_cache + start, head * cache_head_stride, valid, 0, numbers,
                2 * HALF + TAIL, DIM_BLOCK,
            )  # fmt: skip
            _store_heads(
                key_cache + start, head * cache_head_stride, valid, first, second, tail,
                HALF, HALF_BLOCK, TAIL, TAIL_BLOCK,
            )  # fmt: skip


def rope_and_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    norm: HeadNorm | None,
    config: HeadConfig,
) -> torch.Tensor:
    """`Attention.rope_and_write` in one launch; overwrites and returns `query`.

    `query` `[T, Hq, D]`, `key` and `value` `[T, Hkv, D]`, with the same stride between heads and
    channels side by side, as views of one `[T, Hq + 2 Hkv, D]` have; `positions` int64 `[T]`,
    `cos_sin` contiguous float32 `[P, rot]`; caches and slots as in `write_kv`.
    """
    tokens, num_heads, dim = query.shape
    if tokens == 0:
        return query
    num_kv_heads, rotated, heads = key.shape[1], cos_sin.shape[1], config.heads
    rope_and_write_kernel[
        (tokens, triton.cdiv(num_heads, heads) + triton.cdiv(num_kv_heads, heads))
    ](
        query,
        key,
        value,
        positions,
        cos_sin,
        key_cache,
        value_cache,
        slot_mapping,
        query if norm is None else norm.query,
        key if norm is None else norm.key,
        0.0 if norm is None else norm.eps,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        query.stride(1),
        *key_cache.stride()[:3],
        num_heads,
        num_kv_heads,
        key_cache.shape[1],
        *_parts(dim, rotated),
        triton.next_power_of_2(dim),
        norm is not None,
        heads,
        config.wait,
        config.release,
        **config.launch_options(),
    )
    return query


def rope(
    query: torch.Tensor,
    key: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    config: HeadConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.rope`; both with the same stride between heads, as above."""
    tokens, num_heads, dim = query.shape
    num_kv_heads, rotated, heads = key.shape[1], cos_sin.shape[1], config.heads
    query_out = torch.empty_like(query, memory_format=torch.contiguous_format)
    key_out = torch.empty_like(key, memory_format=torch.contiguous_format)
    if tokens == 0:
        return query_out, key_out
    rope_kernel[(tokens, triton.cdiv(num_heads, heads) + triton.cdiv(num_kv_heads, heads))](
        query,
        key,
        query_out,
        key_out,
        positions,
        cos_sin,
        query.stride(0),
        key.stride(0),
        query.stride(1),
        num_heads,
        num_kv_heads,
        *_parts(dim, rotated),
        heads,
        config.wait,
        config.release,
        **config.launch_options(),
    )
    return query_out, key_out


def _parts(dim: int, rotated: int) -> tuple[int, int, int, int]:
    """Sizes of a half and of what is not rotated, each with the power of 2 that holds it."""
    half, tail = rotated // 2, dim - rotated
    return half, triton.next_power_of_2(half), tail, triton.next_power_of_2(max(tail, 1))
