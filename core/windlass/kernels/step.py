"""A decode step's first and last work: from the request table to inputs, from logits to the table.

Both have nothing that the host must know, so that a step may be captured as a graph. R rows of the
step; the request table has one row more than sequences, its last: padding.
"""

from __future__ import annotations

import torch

from windlass.kernels.sampling import greedy, sample


def begin_decode(
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    block_table: torch.Tensor,
    num_columns: int,
    block_size: int,
    slot_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of a step with one token a row, and the count of that token in the table.

    `rows` int32 `[R]`; of the table `last_token` and `position` int64 `[rows]`, `block_table` int32
    `[rows, M]`. Returns token ids and positions int64 `[R]`, sequence lengths int32 `[R]`, slots
    `[R]` of `slot_dtype`, and the rows' block tables int32 `[R, num_columns]`. Adds 1 to `position`
    of every row but the padding row, whose slot is -1, position 0 and length 1.
    """
    blocks = block_table[:, :num_columns].index_select(0, rows)
    tokens, positions = last_token.index_select(0, rows), position.index_select(0, rows)
    block = blocks.gather(1, (positions // block_size)[:, None])[:, 0]
    slots = block.to(slot_dtype) * block_size + (positions % block_size).to(slot_dtype)
    real = rows != len(position) - 1
    slots = torch.where(real, slots, -1)
    # Not advance by a mask: the padding row may stand there many times.
    position.index_put_((rows.long(),), positions + real)
    return tokens, positions, (positions + 1).to(torch.int32), slots, blocks


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token for each row and enter it as the row's `last_token`.

    `logits` float32 `[R, V]`, `rows` int32 `[R]`; the others are columns `[rows]` of the request
    table, with `position` that of the new token. As the op `sample` chooses. Returns the tokens
    int64 `[R]`, and bool `[R]`: whether the row's largest logit is a finite number.
    """
    largest, tokens = greedy(logits)
    index = rows.long()
    sampled = sample(
        logits,
        temperature[index],
        top_k[index],
        top_p[index],
        min_p[index],
        seed[index],
        position[index],
    )
    tokens = torch.where(temperature[index] > 0, sampled, tokens)
    last_token.index_put_((index,), tokens)
    return tokens, torch.isfinite(largest)
