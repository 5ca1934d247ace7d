"""SwiGLU's elementwise part (Shazeer, "GLU variants improve transformer", 2020)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import RowConfig


@triton.jit
def silu(x):
    """SiLU of float32 numbers."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def silu_mul_kernel(
    x,
    out,
    x_stride,
    size,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The op `silu_mul`: grid (rows, blocks of columns). SiLU is rounded before the product."""
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    gate = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_stride + size + column, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = out.dtype.element_ty
    product = silu(gate).to(dtype).to(tl.float32) * up
    tl.store(out + row * size + column, product.to(dtype), mask=mask)


def silu_mul(x: torch.Tensor, config: RowConfig) -> torch.Tensor:
    """`windlass.kernels.reference.silu_mul`."""
    if x.dim() != 2 or x.stride(1) != 1:
        x = x.contiguous()
    size = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], size))
    rows = x.numel() // x.shape[-1]
    if rows:
        silu_mul_kernel[(rows, triton.cdiv(size, config.block))](
            x,
            out,
            x.stride(-2) if x.dim() > 1 else 0,
            size,
            config.block,
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return out
