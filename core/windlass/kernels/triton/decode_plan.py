"""How one query token a row is cut into equal parts, on the device, once for all layers of a step.

See `windlass.kernels.triton.paged_decode`. R rows, Hkv key-value heads in groups of G query heads,
D channels, P programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.attention_tile import lowest_visible
from windlass.kernels.triton.launch import LaunchConfig


@dataclass(frozen=True, kw_only=True)
class DecodeConfig(LaunchConfig):
    """`tile`: tokens in a tile. `minimum_run`: tiles that a program takes at least.

    `programs_per_unit`: programs for each of the chip's compute units. `combine_numbers`: how many
    partial results, counted in numbers, are added up at a time. `chunk`: channels of queries and
    keys multiplied at a time, a power of 2; 0: all at once, with the queries kept in registers.
    """

    tile: int = 64
    minimum_run: int = 2
    programs_per_unit: int = 2
    combine_numbers: int = 4096
    chunk: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePlan:
    """How R rows are cut up, for all layers with one window.

    `rows_end` int32 `[R+1]`: tiles of one head before each row; `first_row` int32 `[P]`: the row in
    which a program starts; `arrivals` int32 `[R * Hkv]`: programs that have done their part of a
    row and head, 0 between layers.
    """

    seq_lens: torch.Tensor
    block_table: torch.Tensor
    rows_end: torch.Tensor
    first_row: torch.Tensor
    arrivals: torch.Tensor
    num_programs: int
    window: int
    config: DecodeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeScratch:
    """Partial results of each program's first and last row: float32 `[2P, G, D]` and `[2P, G]`."""

    partial: torch.Tensor
    partial_lse: torch.Tensor

    @classmethod
    def allocate(
        cls, num_programs: int, group: int, head_dim: int, device: torch.device
    ) -> DecodeScratch:
        """Scratch for all layers of a step, one after the other."""
        shape = (2 * num_programs, group, head_dim)
        return cls(
            partial=torch.empty(shape, dtype=torch.float32, device=device),
            partial_lse=torch.empty(shape[:2], dtype=torch.float32, device=device),
        )


@triton.jit
def run_length(total_tiles, num_kv_heads: tl.constexpr, minimum_run: tl.constexpr):
    """Tiles of each program's run, where each head has `total_tiles`."""
    share = tl.cdiv(total_tiles * num_kv_heads, tl.num_programs(0))
    return tl.maximum(share, minimum_run)


@triton.jit(
    do_not_specialize=["num_rows"],
    do_not_specialize_on_alignment=["seq_lens", "rows_end", "first_row", "arrivals"],
)
def plan_decode_kernel(
    seq_lens,
    rows_end,
    first_row,
    arrivals,
    num_rows,
    num_kv_heads: tl.constexpr,
    minimum_run: tl.constexpr,
    window: tl.constexpr,
    tile: tl.constexpr,
    padded_rows: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Each program finds the row in which the attention program of its number starts."""
    wait()
    release()
    program = tl.program_id(0)
    row = tl.arange(0, padded_rows)
    live = row < num_rows
    seq_len = tl.load(seq_lens + row, mask=live, other=0)
    tiles = tl.cdiv(seq_len, tile) - lowest_visible(seq_len - 1, window) // tile
    tiles = tl.where(live, tiles, 0)
    ends = tl.cumsum(tiles, 0)
    total = tl.sum(tiles, 0)
    start = (program * run_length(total, num_kv_heads, minimum_run)) % total
    tl.store(first_row + program, tl.sum((live & (ends <= start)).to(tl.int32), 0))
    if program == 0:
        tl.store(rows_end, 0)
        tl.store(rows_end + 1 + row, ends, mask=live)
    counters = num_rows * num_kv_heads
    for base in range(program * padded_rows, counters, tl.num_programs(0) * padded_rows):
        tl.store(arrivals + base + row, row * 0, mask=base + row < counters)


def plan_decode(
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    num_kv_heads: int,
    num_units: int,
    max_seq_len: int,
    window: int,
    config: DecodeConfig,
) -> DecodePlan:
    """Cut rows of `seq_lens` int32 `[R]` (each at least 1) with `block_table` int32 `[R, M]`.

    `num_units` compute units are to be kept busy; `max_seq_len` is an upper bound.
    """
    num_rows, device = len(seq_lens), seq_lens.device
    longest = min(max_seq_len, window + config.tile) if window else max_seq_len
    tiles = num_rows * num_kv_heads * triton.cdiv(longest, config.tile)
    useful = triton.cdiv(tiles, config.minimum_run)
    num_programs = min(num_units * config.programs_per_unit, useful)
    sizes = (num_rows + 1, num_programs, num_rows * num_kv_heads)
    numbers = torch.empty(sum(sizes), dtype=torch.int32, device=device)
    rows_end, first_row, arrivals = numbers.split(sizes)
    plan_decode_kernel[(num_programs,)](
        seq_lens,
        rows_end,
        first_row,
        arrivals,
        num_rows,
        num_kv_heads,
        config.minimum_run,
        window,
        config.tile,
        max(32, triton.next_power_of_2(num_rows)),
        config.wait,
        config.release,
        **config.launch_options(),
    )
    return DecodePlan(
        seq_lens=seq_lens,
        block_table=block_table,
        rows_end=rows_end,
        first_row=first_row,
        arrivals=arrivals,
        num_programs=num_programs,
        window=window,
        config=config,
    )
