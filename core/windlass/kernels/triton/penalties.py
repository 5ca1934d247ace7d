"""Penalties in one pass over the logits: `windlass.kernels.sampling.penalties`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import RowConfig


@triton.jit
def penalties_kernel(
    logits,
    prompt_mask,
    output_counts,
    repetition,
    frequency,
    presence,
    out,
    logits_stride,
    vocab_size,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R, blocks of the vocabulary)."""
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = token < vocab_size
    x = tl.load(logits + row * logits_stride + token, mask=mask, other=0.0)
    in_prompt = tl.load(prompt_mask + row * vocab_size + token, mask=mask, other=0) != 0
    count = tl.load(output_counts + row * vocab_size + token, mask=mask, other=0)
    in_output = count > 0
    factor = tl.where(in_prompt | in_output, tl.load(repetition + row), 1.0)
    x = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
    x -= tl.load(frequency + row) * count.to(tl.float32)
    x -= tl.where(in_output, tl.load(presence + row), 0.0)
    tl.store(out + row * vocab_size + token, x, mask=mask)


def penalties(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_counts: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
    config: RowConfig,
) -> torch.Tensor:
    """`windlass.kernels.sampling.penalties`; all but the logits are contiguous."""
    num_rows, vocab_size = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if num_rows:
        penalties_kernel[(num_rows, triton.cdiv(vocab_size, config.block))](
            logits,
            prompt_mask,
            output_counts,
            repetition,
            frequency,
            presence,
            out,
            logits.stride(0),
            vocab_size,
            config.block,
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return out
