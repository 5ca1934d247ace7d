"""Keys and values into their slots of the cache, and how a program takes heads of one token.

T tokens, Hkv key-value heads of D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import LaunchConfig


@dataclass(frozen=True, kw_only=True)
class HeadConfig(LaunchConfig):
    """`heads`, a power of 2: how many heads of a token a program takes."""

    num_warps: int = 1
    heads: int = 4


@triton.jit
def load_part(pointer, offsets, valid, start, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Channels `start` to `start + SIZE` of some heads, float32 `[heads, BLOCK]`, 0 beyond."""
    channel = tl.arange(0, BLOCK)
    mask = valid[:, None] & (channel < SIZE)[None, :]
    part = tl.load(pointer + offsets[:, None] + (start + channel)[None, :], mask=mask, other=0.0)
    return part.to(tl.float32)


@triton.jit
def store_part(
    pointer,
    offsets,
    valid,
    start,
    part,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store what `load_part` loads, in the dtype of `pointer`; fp8 saturates at its largest."""
    channel = tl.arange(0, BLOCK)
    mask = valid[:, None] & (channel < SIZE)[None, :]
    if pointer.dtype.element_ty == tl.float8e4nv:
        part = tl.clamp(part, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    elif pointer.dtype.element_ty == tl.float8e4b8:
        part = tl.clamp(part, -240.0, 240.0, propagate_nan=tl.PropagateNan.ALL)
    part = part.to(pointer.dtype.element_ty)
    tl.store(pointer + offsets[:, None] + (start + channel)[None, :], part, mask=mask)


@triton.jit
def write_kv_kernel(
    key,
    value,
    key_cache,
    value_cache,
    slot_mapping,
    key_stride,
    value_stride,
    head_stride,
    cache_block_stride,
    cache_slot_stride,
    cache_head_stride,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Copy keys and values into their slots: grid (T, groups of heads)."""
    wait()
    release()
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping + token).to(tl.int64)
    if slot >= 0:
        head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
        valid = head < NUM_KV_HEADS
        start = slot // BLOCK_SIZE * cache_block_stride + slot % BLOCK_SIZE * cache_slot_stride
        offsets = head * head_stride
        keys = load_part(key + token * key_stride, offsets, valid, 0, DIM, DIM_BLOCK)
        values = load_part(value + token * value_stride, offsets, valid, 0, DIM, DIM_BLOCK)
        offsets = head * cache_head_stride
        store_part(key_cache + start, offsets, valid, 0, keys, DIM, DIM_BLOCK)
        store_part(value_cache + start, offsets, valid, 0, values, DIM, DIM_BLOCK)


def write_kv(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    config: HeadConfig,
) -> None:
    """Store `key` and `value` into their slots (-1: skip).

    Both `[T, Hkv, D]` with the same stride between heads, channels side by side; the caches
    `[B, N, Hkv, D]` with equal strides, of the same dtype or fp8 (e4m3, saturating);
    `slot_mapping` int `[T]`.
    """
    tokens, num_kv_heads, dim = key.shape
    if tokens == 0:
        return
    write_kv_kernel[(tokens, triton.cdiv(num_kv_heads, config.heads))](
        key,
        value,
        key_cache,
        value_cache,
        slot_mapping,
        key.stride(0),
        value.stride(0),
        key.stride(1),
        *key_cache.stride()[:3],
        num_kv_heads,
        key_cache.shape[1],
        dim,
        triton.next_power_of_2(dim),
        config.heads,
        config.wait,
        config.release,
        **config.launch_options(),
    )
