"""Paged attention of one query token a row, its work in equal parts whatever the lengths.

A sequence is cut into tiles of tokens (Flash-Decoding: Dao et al., 2023), and every program of a
fixed grid takes an equal run of tiles, which may end amid a sequence (Stream-K: Osama et al., 2023;
LeanAttention: Sanovar et al., 2024). Tiles are numbered head by head, row by row. What a program
has of a sequence that it shares goes to scratch memory with its log-sum-exp; the last program to
arrive at a row and head adds up, always in the same order.

R rows, Hq query heads, Hkv key-value heads in groups of G query heads, D channels. The host knows
no length: `windlass.kernels.triton.decode_plan` cuts on the device, once for all layers of a step.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.attention_tile import (
    SMALLEST_DOT,
    attend_tiles,
    cache_of,
    finish_rows,
    lowest_visible,
    padded_channels,
)
from windlass.kernels.triton.decode_plan import DecodeConfig, DecodePlan, DecodeScratch, run_length


@triton.jit
def combine_parts(
    partial, partial_lse, first_program, last_program, first_is_second,
    group: tl.constexpr, group_lanes: tl.constexpr, head_dim: tl.constexpr, channels: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    """Sum of the parts in the programs' order: values `[G, D]`, largest lse and its divisor `[G]`.

    A program's part is its first, only the first program's may be its second. Other programs wrote
    all this: it is read past the first-level cache.
    """
    lane = tl.arange(0, group_lanes)
    channel = tl.arange(0, channels)
    largest = tl.full((group_lanes,), -float("inf"), dtype=tl.float32)
    denominator = tl.zeros((group_lanes,), dtype=tl.float32)
    total = tl.zeros((group_lanes, channels), dtype=tl.float32)
    for first in range(first_program, last_program + 1, parts):
        program = first + tl.arange(0, parts)
        slot = 2 * program + ((program == first_program) & first_is_second).to(tl.int32)
        at = slot[:, None] * group + lane[None, :]
        live = (program <= last_program)[:, None] & (lane < group)[None, :]
        part_lse = tl.load(partial_lse + at, mask=live, other=-float("inf"), cache_modifier=".cg")
        part = tl.load(
            partial + at[:, :, None] * head_dim + channel[None, None, :],
            mask=live[:, :, None] & (channel < head_dim)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_largest = tl.maximum(largest, tl.max(part_lse, 0))
        reference = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        weight = tl.exp2(part_lse - reference[None, :])
        shrink = tl.exp2(largest - reference)
        denominator = denominator * shrink + tl.sum(weight, 0)
        total = total * shrink[:, None] + tl.sum(weight[:, :, None] * part, 0)
        largest = new_largest
    return total, largest, denominator


@triton.jit
def share_row(
    total, largest, denominator, out, lse, sinks, arrivals, partial, partial_lse,
    program, run, row, kv_head, is_second, row_begin, row_end,
    out_row_stride, out_head_stride, lse_row_stride,
    num_kv_heads: tl.constexpr, group: tl.constexpr, query_rows: tl.constexpr,
    group_lanes: tl.constexpr, head_dim: tl.constexpr, channels: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """Hand over a program's part of a row and head; the last program to do so finishes them.

    `is_second`: the program has had a part of another row or head before. The row's tiles are those
    of `[row_begin, row_end)`, of which every program has `run`.
    """
    member = tl.arange(0, query_rows)
    channel = tl.arange(0, channels)
    live = member < group
    slot = 2 * program + is_second.to(tl.int32)
    at = slot * group + member
    tl.store(
        partial + at[:, None] * head_dim + channel[None, :],
        total / denominator[:, None],
        mask=live[:, None] & (channel[None, :] < head_dim),
    )
    tl.store(partial_lse + at, largest + tl.log2(denominator), mask=live)
    # All threads have written before one of them tells the other programs.
    tl.debug_barrier()
    arrival = arrivals + row * num_kv_heads + kv_head
    arrived = tl.atomic_add(arrival, 1, sem="acq_rel", scope="gpu")
    first_program = row_begin // run
    last_program = (row_end - 1) // run
    if arrived == last_program - first_program:
        sums, peaks, divisors = combine_parts(
            partial, partial_lse, first_program, last_program, row_begin > first_program * run,
            group, group_lanes, head_dim, channels, parts,
        )  # fmt: skip
        lane = tl.arange(0, group_lanes)
        heads = kv_head * group + lane
        row64 = row.to(tl.int64)
        finish_rows(
            sums, peaks, divisors, heads, lane < group, out, lse, sinks,
            row64 * out_row_stride + heads * out_head_stride, row64 * lse_row_stride + heads,
            head_dim, channels,
        )  # fmt: skip
        tl.store(arrival, 0)


_ANY_ALIGNMENT = ("seq_lens", "block_table", "rows_end", "first_row", "arrivals")
"""Parts of larger buffers, at another offset in every step: no variant for each."""


@triton.jit(
    do_not_specialize=["num_rows", "table_stride"], do_not_specialize_on_alignment=_ANY_ALIGNMENT
)
def paged_decode_kernel(
    query, keys, values, out, lse, sinks,
    seq_lens, block_table, rows_end, first_row, arrivals, partial, partial_lse,
    scale, num_rows, query_row_stride, query_head_stride, out_row_stride, out_head_stride,
    lse_row_stride, table_stride, block_stride, token_stride, head_stride,
    num_kv_heads: tl.constexpr, group: tl.constexpr, query_rows: tl.constexpr,
    group_lanes: tl.constexpr, head_dim: tl.constexpr, channels: tl.constexpr, chunk: tl.constexpr,
    window: tl.constexpr, softcap: tl.constexpr, tile: tl.constexpr, block_size: tl.constexpr,
    packed: tl.constexpr, minimum_run: tl.constexpr, parts: tl.constexpr, early: tl.constexpr,
    wait: tl.constexpr, release: tl.constexpr,
):  # fmt: skip
    """One run of tiles: the rest of a sequence, whole sequences, the beginning of another.

    With `early` the plan is older than the kernel just before, and is read while that one runs.
    """
    if not early:
        wait()
    program = tl.program_id(0)
    head_tiles = tl.load(rows_end + num_rows)
    run = run_length(head_tiles, num_kv_heads, minimum_run)
    tile_at = program * run
    run_end = tl.minimum(tile_at + run, head_tiles * num_kv_heads)
    row = tl.load(first_row + program)
    if early:
        wait()
    release()
    member = tl.arange(0, query_rows)
    channel = tl.arange(0, channels)
    while tile_at < run_end:
        kv_head = tile_at // head_tiles
        # The row's tiles are those of [row_begin, row_end) in the numbering over all heads.
        row_begin = kv_head * head_tiles + tl.load(rows_end + row)
        row_end = kv_head * head_tiles + tl.load(rows_end + row + 1)
        stop = tl.minimum(run_end, row_end)
        seq_len = tl.load(seq_lens + row)
        position = seq_len - 1
        lowest = lowest_visible(position, window)
        first_token = (lowest // tile + tile_at - row_begin) * tile
        end_token = tl.minimum((lowest // tile + stop - row_begin) * tile, seq_len)
        row64 = row.to(tl.int64)
        heads = kv_head * group + member
        live = member < group
        query_at = query + row64 * query_row_stride + heads[:, None] * query_head_stride
        query_tile = tl.load(
            query_at + channel[None, :],
            mask=live[:, None] & (channel[None, :] < head_dim),
            other=0.0,
        )
        total, largest, denominator = attend_tiles(
            query_tile, query_at, live,
            tl.zeros((1,), dtype=tl.int32) + position,
            tl.zeros((query_rows, channels), dtype=tl.float32),
            tl.full((query_rows,), -float("inf"), dtype=tl.float32),
            tl.zeros((query_rows,), dtype=tl.float32),
            keys + kv_head * head_stride,
            values + kv_head * head_stride,
            block_table + row64 * table_stride,
            first_token, end_token, lowest, seq_len, scale, block_stride, token_stride,
            window, softcap, True, head_dim, channels, chunk, tile, block_size, packed,
        )  # fmt: skip
        if (tile_at == row_begin) & (stop == row_end):
            finish_rows(
                total, largest, denominator, heads, live, out, lse, sinks,
                row64 * out_row_stride + heads * out_head_stride, row64 * lse_row_stride + heads,
                head_dim, channels,
            )  # fmt: skip
        else:
            share_row(
                total, largest, denominator, out, lse, sinks, arrivals, partial, partial_lse,
                program, run, row, kv_head, tile_at > program * run, row_begin, row_end,
                out_row_stride, out_head_stride, lse_row_stride,
                num_kv_heads, group, query_rows, group_lanes, head_dim, channels, parts,
            )  # fmt: skip
        tile_at = stop
        row = tl.where(row + 1 == num_rows, 0, row + 1)


@cache
def decode_constants(
    config: DecodeConfig,
    *,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    window: int,
    softcap: float,
    early: bool,
    packed: int = 0,
) -> dict[str, object]:
    """The constants of `paged_decode_kernel` for a layer of this shape."""
    channels, lanes = padded_channels(head_dim), triton.next_power_of_2(group)
    return {
        "num_kv_heads": num_kv_heads,
        "group": group,
        "query_rows": max(SMALLEST_DOT, lanes),
        "group_lanes": lanes,
        "head_dim": head_dim,
        "channels": channels,
        "chunk": min(config.chunk or channels, channels),
        "window": window,
        "softcap": softcap,
        "tile": config.tile,
        "block_size": block_size,
        "packed": packed,
        "minimum_run": config.minimum_run,
        "parts": max(1, config.combine_numbers // (lanes * channels)),
        "early": early,
        "wait": config.wait,
        "release": config.release,
    }


def paged_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    plan: DecodePlan,
    scratch: DecodeScratch,
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    early: bool = False,
) -> None:
    """Attention of row r's token r of `query` `[T, Hq, D]` over the cache, for the plan's R rows.

    `keys` and `values` are `[B, N, Hkv, D]`, or packed (`attention_tile.Cache`), of the query's
    dtype or fp8; `out` as `query`, `lse` float32 `[T, Hq]`, both written in the first R rows only.
    Meaning of softcap and sinks: `windlass.backend.AttentionParams`. `early` says that another
    kernel was launched since the plan was made.
    """
    cache = cache_of(keys, values)
    num_rows = len(plan.seq_lens)
    config = plan.config
    paged_decode_kernel[(plan.num_programs,)](
        query,
        keys,
        values,
        out,
        lse,
        sinks,
        plan.seq_lens,
        plan.block_table,
        plan.rows_end,
        plan.first_row,
        plan.arrivals,
        scratch.partial,
        scratch.partial_lse,
        scale,
        num_rows,
        query.stride(0),
        query.stride(1),
        out.stride(0),
        out.stride(1),
        0 if lse is None else lse.stride(0),
        plan.block_table.stride(0),
        cache.block_stride,
        cache.token_stride,
        cache.head_stride,
        **decode_constants(
            config,
            num_kv_heads=cache.num_kv_heads,
            group=query.shape[1] // cache.num_kv_heads,
            head_dim=cache.head_dim,
            block_size=cache.block_size,
            packed=cache.packed,
            window=plan.window,
            softcap=softcap,
            early=early,
        ),
        **config.launch_options(),
    )
