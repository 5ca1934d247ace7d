"""Tokens that are not allowed, in one pass over the logits: `sampling.apply_token_mask`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import RowConfig


@triton.jit
def token_mask_kernel(
    logits,
    words,
    out,
    logits_stride,
    words_stride,
    vocab_size,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (S, blocks of the vocabulary). A word is read by the 32 lanes whose tokens it holds."""
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab_size
    word = tl.load(words + row * words_stride + token // 32, mask=inside, other=0)
    allowed = ((word >> (token % 32)) & 1) != 0
    # What is not allowed is not read.
    x = tl.load(logits + row * logits_stride + token, mask=inside & allowed, other=float("-inf"))
    tl.store(out + row * vocab_size + token, x, mask=inside)


def apply_token_mask(logits: torch.Tensor, mask: torch.Tensor, config: RowConfig) -> torch.Tensor:
    """`windlass.kernels.sampling.apply_token_mask`; the words of a row are contiguous."""
    num_rows, vocab_size = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if num_rows:
        token_mask_kernel[(num_rows, triton.cdiv(vocab_size, config.block))](
            logits,
            mask,
            out,
            logits.stride(0),
            mask.stride(0),
            vocab_size,
            config.block,
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return out
