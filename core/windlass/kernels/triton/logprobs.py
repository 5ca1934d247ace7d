"""Log-probabilities of chosen and most probable tokens, without a table of all of them.

Each row is cut into chunks. One kernel finds of each chunk its sum of exponentials, how many logits
exceed the chosen token's, and its own most probable tokens; the next one joins the chunks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import RowConfig

MAX_TOP = 32
"""The most alternatives that the kernels find: they take one at a time."""


@triton.jit
def logprob_partials_kernel(
    logits,
    tokens,
    partials,
    top_values,
    top_tokens,
    logits_stride,
    plane,
    vocab_size,
    NUM_TOP: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R, chunks). `partials` float64 `[3, R, chunks]`: largest, sum, number above the chosen.

    `top_values` float32 and `top_tokens` int32 `[R, chunks, NUM_TOP]`, falling.
    """
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    token = chunk * BLOCK + tl.arange(0, BLOCK)
    mask = token < vocab_size
    row_logits = logits + row * logits_stride
    x = tl.load(row_logits + token, mask=mask, other=float("-inf"))
    chosen = tl.load(row_logits + tl.load(tokens + row))
    largest = tl.max(x, axis=0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    place = row * SPLITS + chunk
    tl.store(partials + place, largest.to(tl.float64))
    total = tl.sum(tl.exp(x - shift).to(tl.float64), axis=0)
    tl.store(partials + plane + place, total)
    above = tl.sum((x > chosen).to(tl.int32), axis=0)
    tl.store(partials + 2 * plane + place, above.to(tl.float64))
    free = mask
    for i in range(NUM_TOP):
        value = tl.max(tl.where(free, x, float("-inf")), axis=0)
        first = tl.min(tl.where(free & (x == value), token, vocab_size), axis=0)
        free = free & (token != first)
        tl.store(top_values + place * NUM_TOP + i, value)
        tl.store(top_tokens + place * NUM_TOP + i, first)


@triton.jit
def join_logprobs_kernel(
    logits,
    tokens,
    partials,
    top_values,
    top_tokens,
    chosen_out,
    rank_out,
    ids_out,
    logprobs_out,
    logits_stride,
    plane,
    vocab_size,
    NUM_TOP: tl.constexpr,
    TOP_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNKS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R,): the row's log-probabilities, the chosen token's rank, and the best of all."""
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    real = chunk < SPLITS
    pointers = partials + row * SPLITS + chunk
    maxima = tl.load(pointers, mask=real, other=float("-inf")).to(tl.float32)
    sums = tl.load(pointers + plane, mask=real, other=0.0)
    above = tl.load(pointers + 2 * plane, mask=real, other=0.0)
    largest = tl.max(maxima, axis=0)
    total = tl.sum(sums * tl.exp(maxima - largest).to(tl.float64), axis=0)
    log_total = tl.log(total.to(tl.float32))
    chosen = tl.load(logits + row * logits_stride + tl.load(tokens + row))
    tl.store(chosen_out + row, chosen - largest - log_total)
    tl.store(rank_out + row, tl.sum(above, axis=0).to(tl.int64) + 1)
    if NUM_TOP > 0:
        place = tl.arange(0, TOP_BLOCK)[None, :]
        offsets = (row * SPLITS + chunk)[:, None] * NUM_TOP + place
        free = real[:, None] & (place < NUM_TOP)
        values = tl.load(top_values + offsets, mask=free, other=float("-inf"))
        ids = tl.load(top_tokens + offsets, mask=free, other=vocab_size)
        free = free & (ids < vocab_size)
        for i in range(NUM_TOP):
            value = tl.max(tl.max(tl.where(free, values, float("-inf")), axis=1), axis=0)
            same = free & (values == value)
            first = tl.min(tl.min(tl.where(same, ids, vocab_size), axis=1), axis=0)
            free = free & (ids != first)
            tl.store(ids_out + row * NUM_TOP + i, tl.minimum(first, vocab_size - 1).to(tl.int64))
            tl.store(logprobs_out + row * NUM_TOP + i, value - largest - log_total)


def token_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, num_top: int, config: RowConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`windlass.kernels.sampling.token_logprobs` for at most `MAX_TOP` alternatives.

    Of equal logits the smaller id comes first.
    """
    (num_rows, vocab_size), device = logits.shape, logits.device
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    splits = triton.cdiv(vocab_size, config.block)
    partials = torch.empty((3, num_rows, splits), dtype=torch.float64, device=device)
    top_values = torch.empty((num_rows, splits, num_top), dtype=torch.float32, device=device)
    top_tokens = torch.empty((num_rows, splits, num_top), dtype=torch.int32, device=device)
    chosen = torch.empty(num_rows, dtype=torch.float32, device=device)
    rank = torch.empty(num_rows, dtype=torch.int64, device=device)
    ids = torch.empty((num_rows, num_top), dtype=torch.int64, device=device)
    logprobs = torch.empty((num_rows, num_top), dtype=torch.float32, device=device)
    if num_rows == 0:
        return chosen, rank, ids, logprobs
    sizes = (logits.stride(0), num_rows * splits, vocab_size)
    hooks, options = (config.wait, config.release), config.launch_options()
    logprob_partials_kernel[(num_rows, splits)](
        logits, tokens, partials, top_values, top_tokens, *sizes,
        num_top, splits, config.block, *hooks, **options,
    )  # fmt: skip
    join_logprobs_kernel[(num_rows,)](
        logits, tokens, partials, top_values, top_tokens, chosen, rank, ids, logprobs, *sizes,
        num_top, triton.next_power_of_2(max(num_top, 1)), splits,
        triton.next_power_of_2(splits), *hooks, **options,
    )  # fmt: skip
    return chosen, rank, ids, logprobs
