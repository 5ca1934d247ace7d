"""The experts of a sparse feed-forward layer as two grouped products.

The first reads tokens where they lie and ends in SwiGLU, the second ends in the routing weight; a
last kernel adds the k results of each token in a fixed order, so that equal inputs give equal
outputs. T tokens, E experts, k of a token, H hidden size, I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.activation import silu
from windlass.kernels.triton.launch import LaunchConfig, RowConfig
from windlass.kernels.triton.routing import (
    most_tiles,
    plan_tiles,
    planned_tile,
    unplanned_tile,
)


@dataclass(frozen=True, kw_only=True)
class GroupedConfig(LaunchConfig):
    """Of a grouped product: a program computes `block_n` outputs of a tile, `block_k` inputs at a
    time.

    `group` tiles share one pass over the weights, so that tiles of one expert find them in the
    cache. With `swap` the weights are the product's left operand, which suits few rows.
    """

    block_n: int
    block_k: int
    group: int = 8
    swap: bool = False


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Of all kernels of `grouped_experts`; a tile has `block_m` rows, a power of 2 of at least 16.

    With `plan` None, which needs at most `block_m` tokens, each program finds its rows by itself.
    """

    block_m: int
    plan: RowConfig | None
    gate_up: GroupedConfig
    down: GroupedConfig
    total: RowConfig


@triton.jit
def _position(num_tiles, NUM_BLOCKS: tl.constexpr, GROUP: tl.constexpr):
    """The tile and the block of outputs of this program, group after group of tiles."""
    program = tl.program_id(0)
    group = program // (GROUP * NUM_BLOCKS)
    inside = program % (GROUP * NUM_BLOCKS)
    width = tl.minimum(num_tiles - group * GROUP, GROUP)
    return group * GROUP + inside % width, inside // width


@triton.jit
def _product(rows, weight, total, SWAP: tl.constexpr):
    """`total` plus `rows` times transposed `weight`; with SWAP `total` is transposed too."""
    if SWAP:
        total = tl.dot(weight, tl.trans(rows), total, input_precision="ieee")
    else:
        total = tl.dot(rows, tl.trans(weight), total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["num_choices", "num_tiles"])
def gate_up_kernel(
    x,
    gate_up,
    map,
    out,
    num_choices,
    num_tiles,
    TOP_K: tl.constexpr,
    HIDDEN: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    PLANNED: tl.constexpr,
    CHOICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    SWAP: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """`silu(gate(x)) * up(x)` of every choice: `out` `[T * k, I]`. Grid (tiles * blocks,)."""
    wait()
    release()
    tile, block = _position(num_tiles, tl.cdiv(INTERMEDIATE, BLOCK_N), GROUP)
    if PLANNED:
        expert, choice, real = planned_tile(tile, map, num_choices, num_tiles, BLOCK_M)
    else:
        expert, choice, real = unplanned_tile(tile, map, num_choices, BLOCK_M, CHOICES)
    if expert < 0:
        return
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows and columns that are too many repeat real ones; what they give is not stored.
    own = tl.minimum(column, INTERMEDIATE - 1)
    inner = tl.arange(0, BLOCK_K)
    token = (choice // TOP_K).to(tl.int64)
    row_place = x + token[:, None] * HIDDEN + inner[None, :]
    first = gate_up + expert.to(tl.int64) * (2 * INTERMEDIATE * HIDDEN)
    gate_place = first + own[:, None] * HIDDEN + inner[None, :]
    up_place = gate_place + INTERMEDIATE * HIDDEN
    if SWAP:
        gate = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, HIDDEN, BLOCK_K):
        if HIDDEN % BLOCK_K == 0:
            rows = tl.load(row_place)
            gate_weight = tl.load(gate_place)
            up_weight = tl.load(up_place)
        else:
            mask = (start + inner < HIDDEN)[None, :]
            rows = tl.load(row_place, mask=mask, other=0.0)
            gate_weight = tl.load(gate_place, mask=mask, other=0.0)
            up_weight = tl.load(up_place, mask=mask, other=0.0)
        gate = _product(rows, gate_weight, gate, SWAP)
        up = _product(rows, up_weight, up, SWAP)
        row_place += BLOCK_K
        gate_place += BLOCK_K
        up_place += BLOCK_K
    result = silu(gate) * up
    if SWAP:
        result = tl.trans(result)
    mask = real[:, None] & (column < INTERMEDIATE)[None, :]
    place = out + choice.to(tl.int64)[:, None] * INTERMEDIATE + column[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_choices", "num_tiles"])
def down_kernel(
    x,
    down,
    weights,
    map,
    out,
    num_choices,
    num_tiles,
    HIDDEN: tl.constexpr,
    INTERMEDIATE: tl.constexpr,
    PLANNED: tl.constexpr,
    CHOICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    SWAP: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """`down(x)` times the choice's weight: `x` `[T * k, I]`, `out` `[T * k, H]`. Grid as above."""
    wait()
    release()
    tile, block = _position(num_tiles, tl.cdiv(HIDDEN, BLOCK_N), GROUP)
    if PLANNED:
        expert, choice, real = planned_tile(tile, map, num_choices, num_tiles, BLOCK_M)
    else:
        expert, choice, real = unplanned_tile(tile, map, num_choices, BLOCK_M, CHOICES)
    if expert < 0:
        return
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    own = tl.minimum(column, HIDDEN - 1)
    inner = tl.arange(0, BLOCK_K)
    row_place = x + choice.to(tl.int64)[:, None] * INTERMEDIATE + inner[None, :]
    first = down + expert.to(tl.int64) * (INTERMEDIATE * HIDDEN)
    weight_place = first + own[:, None] * INTERMEDIATE + inner[None, :]
    if SWAP:
        total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, INTERMEDIATE, BLOCK_K):
        if INTERMEDIATE % BLOCK_K == 0:
            rows = tl.load(row_place)
            weight = tl.load(weight_place)
        else:
            mask = (start + inner < INTERMEDIATE)[None, :]
            rows = tl.load(row_place, mask=mask, other=0.0)
            weight = tl.load(weight_place, mask=mask, other=0.0)
        total = _product(rows, weight, total, SWAP)
        row_place += BLOCK_K
        weight_place += BLOCK_K
    if SWAP:
        total = tl.trans(total)
    total *= tl.load(weights + choice)[:, None]
    mask = real[:, None] & (column < HIDDEN)[None, :]
    place = out + choice.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def total_kernel(
    parts,
    out,
    SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The sum over k of `parts` `[T, k, SIZE]`, first to last: `[T, SIZE]`.

    Grid (T, SIZE / BLOCK).
    """
    wait()
    release()
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < SIZE
    total = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(TOP_K):
        place = parts + (token * TOP_K + number) * SIZE + column
        total += tl.load(place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token * SIZE + column, total.to(out.dtype.element_ty), mask=mask)


def grouped_experts(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    config: ExpertsConfig,
) -> torch.Tensor:
    """`windlass.kernels.experts.DenseExperts.apply`, all tensors contiguous.

    `x` `[T, H]`, `gate_up` `[E, 2I, H]` and `down` `[E, H, I]` of one dtype; `weights` float32 and
    `ids` int32 `[T, k]`, where a token's ids differ.
    """
    (tokens, hidden), (experts, _, intermediate) = x.shape, down.shape
    if not tokens:
        return torch.empty_like(x)
    choices, top_k, block_m = ids.numel(), ids.shape[1], config.block_m
    if config.plan is None:
        if tokens > block_m:
            raise ValueError(f"{tokens} tokens in tiles of {block_m} need a plan")
        tiles, tile_map = choices, ids
    else:
        tiles = most_tiles(choices, experts, block_m)
        tile_map = plan_tiles(ids, experts, block_m, tiles, config.plan)
    shared = (
        hidden,
        intermediate,
        config.plan is not None,
        triton.next_power_of_2(block_m * top_k),
        block_m,
    )
    inner = torch.empty(choices, intermediate, dtype=x.dtype, device=x.device)
    product, grid = config.gate_up, tiles * triton.cdiv(intermediate, config.gate_up.block_n)
    gate_up_kernel[(grid,)](
        x, gate_up, tile_map, inner, choices, tiles, top_k, *shared, *_blocks(product),
        **product.launch_options(),
    )  # fmt: skip
    parts = torch.empty(choices, hidden, dtype=x.dtype, device=x.device)
    product, grid = config.down, tiles * triton.cdiv(hidden, config.down.block_n)
    down_kernel[(grid,)](
        inner, down, weights, tile_map, parts, choices, tiles, *shared, *_blocks(product),
        **product.launch_options(),
    )  # fmt: skip
    out = torch.empty_like(x)
    total = config.total
    total_kernel[(tokens, triton.cdiv(hidden, total.block))](
        parts, out, hidden, top_k, total.block, total.wait, total.release,
        **total.launch_options(),
    )  # fmt: skip
    return out


def _blocks(config: GroupedConfig) -> tuple[object, ...]:
    return (
        config.block_n,
        config.block_k,
        config.group,
        config.swap,
        config.wait,
        config.release,
    )
