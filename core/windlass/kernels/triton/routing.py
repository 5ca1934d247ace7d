"""Routing to experts: which experts a token goes to, and which rows a tile of one expert takes.

A *choice* is one of the k experts of one token: choice `t * k + j` is the jth of token t. A *tile*
is some choices of the same expert, at most `block_m`. How many tiles there are only the device
knows; the launchers count on the most that there can be, and tiles too many are marked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import LaunchConfig, RowConfig


@dataclass(frozen=True, kw_only=True)
class RouteConfig(LaunchConfig):
    """`tokens`, a power of 2, is how many tokens a program routes."""

    tokens: int = 4


@triton.jit(do_not_specialize=["num_tokens"])
def route_kernel(
    logits,
    weights,
    ids,
    num_tokens,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    SLOTS: tl.constexpr,
    TOKENS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The op `route_experts`; among equal experts the first. Grid (tokens / TOKENS,).

    Not a number counts as probability 0 where experts are compared: ids are always experts.
    """
    wait()
    release()
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    expert = tl.arange(0, EXPERTS)
    slot = tl.arange(0, SLOTS)
    real = token < num_tokens
    mask = real[:, None] & (expert < NUM_EXPERTS)[None, :]
    place = logits + token.to(tl.int64)[:, None] * NUM_EXPERTS + expert[None, :]
    numbers = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    numbers = tl.where((expert < NUM_EXPERTS)[None, :], numbers, float("-inf"))
    powers = tl.exp(numbers - tl.max(numbers, axis=1)[:, None])
    probability = powers / tl.sum(powers, axis=1)[:, None]
    left = tl.where(probability >= 0.0, probability, 0.0)
    left = tl.where((expert < NUM_EXPERTS)[None, :], left, -1.0)
    chosen = tl.zeros([TOKENS, SLOTS], tl.int32)
    weight = tl.zeros([TOKENS, SLOTS], tl.float32)
    for number in tl.static_range(TOP_K):
        best = tl.argmax(left, axis=1)
        is_best = expert[None, :] == best[:, None]
        share = tl.sum(tl.where(is_best, probability, 0.0), axis=1)
        chosen = tl.where(slot[None, :] == number, best[:, None], chosen)
        weight = tl.where(slot[None, :] == number, share[:, None], weight)
        left = tl.where(is_best, -1.0, left)
    if RENORMALIZE:
        weight = weight / tl.sum(weight, axis=1)[:, None]
    out = token.to(tl.int64)[:, None] * TOP_K + slot[None, :]
    mask = real[:, None] & (slot < TOP_K)[None, :]
    tl.store(weights + out, weight, mask=mask)
    tl.store(ids + out, chosen, mask=mask)


@triton.jit(do_not_specialize=["num_choices", "num_tiles"])
def plan_kernel(
    ids,
    plan,
    num_choices,
    num_tiles,
    NUM_EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Sort the choices by expert and cut them into tiles. Grid (NUM_EXPERTS + 1,).

    Every program counts all choices, so that it knows what lies before its own expert; the last
    one marks the tiles that are too many, which begin where they end. For `plan` see `plan_tiles`.
    """
    wait()
    release()
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    bins = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for first in range(0, num_choices, BLOCK):
        index = first + lane
        # Lanes beyond the end fall into a bin that is no expert's.
        found = tl.load(ids + index, mask=index < num_choices, other=BINS - 1)
        counts += tl.histogram(found, BINS)
    counts = tl.where(bins < NUM_EXPERTS, counts, 0)
    tiles = (counts + BLOCK_M - 1) // BLOCK_M
    begin = tl.sum(tl.where(bins < expert, counts, 0), axis=0)
    count = tl.sum(tl.where(bins == expert, counts, 0), axis=0)
    first_tile = tl.sum(tl.where(bins < expert, tiles, 0), axis=0)
    own_tiles = tl.sum(tl.where(bins == expert, tiles, 0), axis=0)
    is_last = expert == NUM_EXPERTS
    if is_last:
        own_tiles = num_tiles - first_tile

    experts = plan + num_choices
    for first in range(0, own_tiles, BLOCK):
        tile = first + lane
        mask = tile < own_tiles
        start = begin + tile * BLOCK_M
        place = first_tile + tile
        tl.store(experts + place, tl.where(is_last, -1, expert) + tile * 0, mask=mask)
        tl.store(experts + num_tiles + place, start, mask=mask)
        tl.store(experts + 2 * num_tiles + place, begin + count + tile * 0, mask=mask)

    place = begin
    for first in range(0, num_choices, BLOCK):
        index = first + lane
        found = tl.load(ids + index, mask=index < num_choices, other=-1)
        mine = found == expert
        rank = tl.cumsum(mine.to(tl.int32), axis=0)
        tl.store(plan + place + rank - 1, index, mask=mine)
        place += tl.sum(mine.to(tl.int32), axis=0)


@triton.jit
def planned_tile(tile, plan, num_choices, num_tiles, BLOCK_M: tl.constexpr):
    """A tile of `plan_tiles`: its expert (-1: there is no such tile), its choices `[BLOCK_M]`,
    and which of them are real."""
    experts = plan + num_choices
    expert = tl.load(experts + tile)
    start = tl.load(experts + num_tiles + tile)
    end = tl.load(experts + 2 * num_tiles + tile)
    place = start + tl.arange(0, BLOCK_M)
    real = place < end
    return expert, tl.load(plan + place, mask=real, other=0), real


@triton.jit
def unplanned_tile(tile, ids, num_choices, BLOCK_M: tl.constexpr, CHOICES: tl.constexpr):
    """As `planned_tile` for few tokens, straight from `ids`: tile i belongs to the expert of
    choice i, unless a choice before it has the same expert. No expert has more than BLOCK_M."""
    index = tl.arange(0, CHOICES)
    experts = tl.load(ids + index, mask=index < num_choices, other=-1)
    expert = tl.load(ids + tile)
    same = experts == expert
    is_first = tl.sum((same & (index < tile)).to(tl.int32), axis=0) == 0
    rank = tl.cumsum(same.to(tl.int32), axis=0) - 1
    slot = tl.arange(0, BLOCK_M)
    holds = same[None, :] & (rank[None, :] == slot[:, None])
    choice = tl.sum(tl.where(holds, index[None, :], 0), axis=1)
    real = slot < tl.sum(same.to(tl.int32), axis=0)
    return tl.where(is_first, expert, -1), choice, real


def route(
    router_logits: torch.Tensor, top_k: int, renormalize: bool, config: RouteConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.experts.route_experts`."""
    logits = router_logits.contiguous()
    tokens, experts = logits.shape
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    ids = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    if tokens:
        route_kernel[(triton.cdiv(tokens, config.tokens),)](
            logits,
            weights,
            ids,
            tokens,
            experts,
            top_k,
            renormalize,
            triton.next_power_of_2(experts),
            triton.next_power_of_2(top_k),
            config.tokens,
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return weights, ids


def most_tiles(num_choices: int, num_experts: int, block_m: int) -> int:
    """The most tiles that `num_choices` can make, each with at least one choice."""
    return min(num_choices, (num_choices + num_experts * (block_m - 1)) // block_m)


def plan_tiles(
    ids: torch.Tensor, num_experts: int, block_m: int, num_tiles: int, config: RowConfig
) -> torch.Tensor:
    """The tiles of `ids` int32 `[T, k]`, as int32 `[T * k + 3 * num_tiles]`, one after the other:
    the choices sorted by expert; of each tile the expert (-1: none), the place of its first
    choice among the sorted ones, and the end of its expert's choices there."""
    num_choices = ids.numel()
    plan = torch.empty(num_choices + 3 * num_tiles, dtype=torch.int32, device=ids.device)
    plan_kernel[(num_experts + 1,)](
        ids,
        plan,
        num_choices,
        num_tiles,
        num_experts,
        bins(num_experts),
        block_m,
        config.block,
        config.wait,
        config.release,
        **config.launch_options(),
    )
    return plan


def bins(num_experts: int) -> int:
    """Bins of `plan_kernel`'s histogram: one for each expert and for what is none."""
    return max(32, int(triton.next_power_of_2(num_experts + 1)))
