"""A decode step's first and last work, each in few launches: `windlass.kernels.step`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.sampling import SampleConfig, SampleParameters, choose


@triton.jit
def begin_decode_kernel(
    rows,
    last_token,
    position,
    block_table,
    tokens,
    positions,
    seq_lens,
    slots,
    blocks,
    padding_row,
    table_stride,
    num_columns,
    BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R, blocks of columns): copy the row's block table; the first does all the rest."""
    wait()
    release()
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    table = block_table + row * table_stride
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < num_columns
    tl.store(blocks + place * num_columns + column, tl.load(table + column, mask=mask), mask=mask)
    if tl.program_id(1) == 0:
        now = tl.load(position + row)
        block = tl.load(table + now // BLOCK_SIZE).to(tl.int64)
        slot = block * BLOCK_SIZE + now % BLOCK_SIZE
        slot = tl.where(row == padding_row, -1, slot)
        tl.store(tokens + place, tl.load(last_token + row))
        tl.store(positions + place, now)
        tl.store(seq_lens + place, (now + 1).to(tl.int32))
        tl.store(slots + place, slot.to(slots.dtype.element_ty))
        # The padding row may stand in many places and does not advance.
        tl.store(position + row, now + 1, mask=row != padding_row)


def begin_decode(
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    block_table: torch.Tensor,
    num_columns: int,
    block_size: int,
    slot_dtype: torch.dtype,
    config: RowConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`windlass.kernels.step.begin_decode`; the table's columns are contiguous."""
    count, device = len(rows), rows.device
    tokens = torch.empty(count, dtype=torch.int64, device=device)
    positions = torch.empty(count, dtype=torch.int64, device=device)
    seq_lens = torch.empty(count, dtype=torch.int32, device=device)
    slots = torch.empty(count, dtype=slot_dtype, device=device)
    blocks = torch.empty((count, num_columns), dtype=torch.int32, device=device)
    if count:
        begin_decode_kernel[(count, triton.cdiv(num_columns, config.block))](
            rows,
            last_token,
            position,
            block_table,
            tokens,
            positions,
            seq_lens,
            slots,
            blocks,
            len(position) - 1,
            block_table.stride(0),
            num_columns,
            block_size,
            config.block,
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return tokens, positions, seq_lens, slots, blocks


def next_tokens(
    logits: torch.Tensor,
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seed: torch.Tensor,
    config: SampleConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.step.next_tokens`; the table's columns are contiguous."""
    parameters = SampleParameters(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=position,
        rows=rows,
    )
    finite = torch.empty(len(rows), dtype=torch.bool, device=logits.device)
    tokens = choose(logits, parameters, config, finite=finite, last_token=last_token)
    return tokens, finite
