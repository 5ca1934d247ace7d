"""Root-mean-square norm (Zhang and Sennrich, 2019), alone and after a residual addition.

A program takes one row and keeps it in registers, so that memory is read and written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import LaunchConfig


@triton.jit
def scaled(x, inverse, factors, DTYPE: tl.constexpr):
    """`x`, `inverse` of its root mean square, and its weights, all float32, multiplied.

    The first product is rounded to `DTYPE`, as the reference does; the second one is the caller's
    to round.
    """
    return (x * inverse).to(DTYPE).to(tl.float32) * factors


@triton.jit
def _normed(x, factors, eps, SIZE: tl.constexpr, DTYPE: tl.constexpr):
    """Norm of a float32 row, 0 beyond SIZE, times its weights, to be rounded to `DTYPE`."""
    inverse = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    return scaled(x, inverse, factors, DTYPE)


@triton.jit
def rms_norm_kernel(
    x,
    weight,
    out,
    eps,
    x_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The op `rms_norm`: grid (rows,)."""
    column = tl.arange(0, BLOCK)
    mask = column < SIZE
    factors = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = out.dtype.element_ty
    normed = _normed(numbers, factors, eps, SIZE, dtype)
    tl.store(out + row * SIZE + column, normed.to(dtype), mask=mask)


@triton.jit
def add_rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    total,
    eps,
    x_stride,
    residual_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """The op `add_rms_norm`: grid (rows,)."""
    column = tl.arange(0, BLOCK)
    mask = column < SIZE
    factors = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.load(x + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    others = tl.load(residual + row * residual_stride + column, mask=mask, other=0.0)
    dtype: tl.constexpr = out.dtype.element_ty
    numbers = (numbers + others.to(tl.float32)).to(dtype)
    tl.store(total + row * SIZE + column, numbers, mask=mask)
    normed = _normed(numbers.to(tl.float32), factors, eps, SIZE, dtype)
    tl.store(out + row * SIZE + column, normed.to(dtype), mask=mask)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, config: LaunchConfig
) -> torch.Tensor:
    """`windlass.kernels.reference.rms_norm`."""
    x, size = _rows(x), x.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = x.numel() // size
    if rows:
        rms_norm_kernel[(rows,)](
            x,
            weight,
            out,
            eps,
            x.stride(-2) if x.dim() > 1 else size,
            size,
            triton.next_power_of_2(size),
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return out


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    config: LaunchConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.add_rms_norm`; both results are new."""
    x, residual, size = _rows(x), _rows(residual), x.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = torch.empty_like(out)
    rows = x.numel() // size
    if rows:
        add_rms_norm_kernel[(rows,)](
            x,
            residual,
            weight,
            out,
            total,
            eps,
            x.stride(-2),
            residual.stride(-2),
            size,
            triton.next_power_of_2(size),
            config.wait,
            config.release,
            **config.launch_options(),
        )
    return out, total


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a copy whose rows lie at a constant distance."""
    return x if x.dim() == 2 and x.stride(1) == 1 else x.contiguous()
