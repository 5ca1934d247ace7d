"""A linear layer over few rows, together with the norm before it and the gate after it.

Every program takes some rows of the weight and all rows of the input. It multiplies and sums
without matrix instructions: at up to eight rows the time is that of reading the weight once. A norm
over the input is cheap enough to be computed again by every program.

T tokens (rows), N outputs, K inputs, I intermediate size. Rounding points are those of the ops
`add_rms_norm`, linear and `silu_mul`, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.activation import silu
from windlass.kernels.triton.launch import LaunchConfig
from windlass.kernels.triton.norm import scaled

MAX_ROWS = 8
"""Rows of the input beyond which matrix instructions are needed to keep up with memory."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(LaunchConfig):
    """Tile sizes of a linear layer over few rows: `block_n` outputs times `block_k` inputs.

    `block_m` is the number of rows, padded to a power of two. `split_k` programs share the inputs
    of a tile, where matrix instructions are used. A weight's first tile is loaded before `wait`,
    the others go through `num_stages` buffers. `eviction` is Triton's policy for the weight, which
    is read once.
    """

    block_m: int
    block_n: int
    block_k: int
    split_k: int = 1
    eviction: str = "evict_first"


@dataclass(frozen=True, slots=True)
class Norm:
    """What stands before a linear layer: the RMS norm with `weight` `[K]`."""

    weight: torch.Tensor
    eps: float


@triton.jit
def weight_tile(
    weight, first_row, first_k, N,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """Rows from `first_row` of a contiguous `[N, K]`, inputs from `first_k`; 0 outside."""
    rows = tl.arange(0, BLOCK_N)
    inputs = first_k + tl.arange(0, BLOCK_K)
    pointers = weight + first_row.to(tl.int64) * K + (rows[:, None] * K + inputs[None, :])
    if EVEN_N:
        if K % BLOCK_K == 0:
            tile = tl.load(pointers, eviction_policy=EVICTION)
        else:
            tile = tl.load(pointers, (inputs < K)[None, :], 0.0, eviction_policy=EVICTION)
    else:
        mask = (first_row + rows < N)[:, None] & (inputs < K)[None, :]
        tile = tl.load(pointers, mask, 0.0, eviction_policy=EVICTION)
    return tile


@triton.jit
def _stream(x, x_stride, residual, row, inputs, mask, K: tl.constexpr, ADD: tl.constexpr):
    """A row of the input, plus the residual stream, rounded as their sum is; in fp32."""
    value = tl.load(x + row * x_stride + inputs, mask, 0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row * K + inputs, mask, 0.0).to(tl.float32)
        value = value.to(x.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def _add_product(accumulator, tile, vector, row, BLOCK_M: tl.constexpr):
    """Add the tile `[BLOCK_N, BLOCK_K]` times the input row `row` to `[BLOCK_M, BLOCK_N]`."""
    product = tl.sum(tile.to(tl.float32) * vector[None, :], axis=1)
    if BLOCK_M == 1:
        accumulator += product[None, :]
    else:
        rows = tl.arange(0, BLOCK_M)
        accumulator += tl.where((rows == row)[:, None], product[None, :], 0.0)
    return accumulator


@triton.jit
def with_bias(accumulator, bias, outputs, N, DTYPE: tl.constexpr, HAS_BIAS: tl.constexpr):
    """`[BLOCK_M, BLOCK_N]` plus the bias of `outputs`, rounded once to `DTYPE`."""
    if HAS_BIAS:
        accumulator += tl.load(bias + outputs, outputs < N, 0.0).to(tl.float32)[None, :]
    return accumulator.to(DTYPE)


@triton.jit
def _input(
    x, x_stride, residual, norm_weight, inverse_rms, row: tl.constexpr, start, M,
    K: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """What the weight multiplies: `BLOCK_K` inputs of a row from `start`, normed where asked."""
    inputs = start + tl.arange(0, BLOCK_K)
    mask = inputs < tl.where(row < M, K, 0)
    vector = _stream(x, x_stride, residual, row, inputs, mask, K, ADD)
    if NORM:
        rows = tl.arange(0, inverse_rms.shape[0])
        inverse = tl.sum(tl.where(rows == row, inverse_rms, 0.0), axis=0)
        factors = tl.load(norm_weight + inputs, inputs < K, 0.0).to(tl.float32)
        vector = scaled(vector, inverse, factors, x.dtype.element_ty)
        vector = vector.to(x.dtype.element_ty).to(tl.float32)
    return vector


@triton.jit
def _add_products(
    total, total_up, tile, up_tile, x, x_stride, residual, norm_weight, inverse_rms, start, M,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    NORM: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Add the products of all rows' inputs from `start` with the tiles that they meet."""
    for row in tl.static_range(BLOCK_M):
        vector = _input(
            x, x_stride, residual, norm_weight, inverse_rms, row, start, M, K, BLOCK_K, NORM, ADD
        )
        total = _add_product(total, tile, vector, row, BLOCK_M)
        if GATED:
            total_up = _add_product(total_up, up_tile, vector, row, BLOCK_M)
    return total, total_up


@triton.jit(do_not_specialize=["M", "eps"])
def fused_linear_kernel(
    x, residual, norm_weight, weight, bias, out, new_residual, M, N, x_stride, eps,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, EVEN_N: tl.constexpr, EVICTION: tl.constexpr, STAGES: tl.constexpr,
    wait: tl.constexpr, release: tl.constexpr,
):  # fmt: skip
    """`out` `[M, N]`; `WIDTH` is K padded to a power of two. `GATED`: the weight is `[2N, K]`.

    The first tile is used last: the loads of the others are then under way before the input is
    needed.
    """
    release()
    program = tl.program_id(0)
    first_row = program * BLOCK_N
    dtype: tl.constexpr = x.dtype.element_ty
    tile = weight_tile(weight, first_row, 0, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION)
    up_tile = tile
    if GATED:
        up_weight = weight + N.to(tl.int64) * K
        up_tile = weight_tile(up_weight, first_row, 0, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION)
    if NORM:
        all_inputs = tl.arange(0, WIDTH)
        if BLOCK_K == WIDTH:
            factors = tl.load(norm_weight + all_inputs, all_inputs < K, 0.0).to(tl.float32)
    wait()

    rows = tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    total_up = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    inverse_rms = tl.zeros([BLOCK_M], dtype=tl.float32)
    if NORM:
        for row in tl.static_range(BLOCK_M):
            mask = all_inputs < tl.where(row < M, K, 0)
            stream = _stream(x, x_stride, residual, row, all_inputs, mask, K, ADD)
            if ADD:  # noqa: SIM102 - a constant of the kernel, not a condition
                if program == row % tl.num_programs(0):
                    tl.store(new_residual + row * K + all_inputs, stream.to(dtype), mask)
            inverse = tl.rsqrt(tl.sum(stream * stream, axis=0) / K + eps)
            if BLOCK_K == WIDTH:
                vector = scaled(stream, inverse, factors, dtype).to(dtype).to(tl.float32)
                total = _add_product(total, tile, vector, row, BLOCK_M)
                if GATED:
                    total_up = _add_product(total_up, up_tile, vector, row, BLOCK_M)
            else:
                inverse_rms = tl.where(rows == row, inverse, inverse_rms)

    if not (NORM and BLOCK_K == WIDTH):
        for step in tl.range(1, tl.cdiv(K, BLOCK_K), num_stages=STAGES):
            start = step * BLOCK_K
            next_tile = weight_tile(
                weight, first_row, start, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION
            )
            next_up = next_tile
            if GATED:
                next_up = weight_tile(
                    up_weight, first_row, start, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION
                )
            total, total_up = _add_products(
                total, total_up, next_tile, next_up, x, x_stride, residual, norm_weight,
                inverse_rms, start, M, K, BLOCK_M, BLOCK_K, NORM, ADD, GATED,
            )  # fmt: skip
        total, total_up = _add_products(
            total, total_up, tile, up_tile, x, x_stride, residual, norm_weight, inverse_rms, 0, M,
            K, BLOCK_M, BLOCK_K, NORM, ADD, GATED,
        )  # fmt: skip

    outputs = first_row + tl.arange(0, BLOCK_N)
    result = with_bias(total, bias, outputs, N, out.dtype.element_ty, HAS_BIAS)
    if GATED:
        up = with_bias(total_up, bias + N, outputs, N, dtype, HAS_BIAS).to(tl.float32)
        gate = silu(result.to(tl.float32)).to(dtype).to(tl.float32)
        result = (gate * up).to(dtype)
    pointers = out + rows[:, None] * N.to(tl.int64) + outputs[None, :]
    tl.store(pointers, result, (rows < M)[:, None] & (outputs < N)[None, :])


def fused_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    config: LinearConfig,
    *,
    norm: Norm | None = None,
    residual: torch.Tensor | None = None,
    gated: bool = False,
    out_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear layer over at most `MAX_ROWS` rows: (output, what is now the residual stream).

    Args:
        x: `[T, K]`, rows contiguous; T at most `config.block_m`.
        weight: contiguous `[N, K]` of `x`'s dtype; with `gated` `[2I, K]`, gates first.
        bias: `[N]` (`[2I]`) or None.
        config: the tiles.
        norm: the RMS norm before the product.
        residual: contiguous `[T, K]`, added to `x` before the norm; it is not overwritten.
        gated: SiLU of the first half of the outputs times the second: the output is `[T, I]`.
        out_dtype: the output's dtype, without it `x`'s.

    Raises:
        ValueError: the operands or the tiles do not fit.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    if rows > config.block_m or config.block_m > MAX_ROWS or config.split_k != 1:
        raise ValueError(f"{rows} rows do not fit tiles for {config.block_m}")
    if weight.shape[1] != inputs or not weight.is_contiguous() or x.stride(1) != 1:
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit")
    if residual is not None and (norm is None or not residual.is_contiguous()):
        raise ValueError("a residual must be contiguous and needs a norm")
    out = torch.empty((rows, outputs), dtype=out_dtype or x.dtype, device=x.device)
    width = triton.next_power_of_2(inputs)
    added = x if residual is None else torch.empty_like(residual)
    fused_linear_kernel[(triton.cdiv(outputs, config.block_n),)](
        x,
        x if residual is None else residual,
        x if norm is None else norm.weight,
        weight,
        x if bias is None else bias,
        out,
        added,
        rows,
        outputs,
        x.stride(0),
        0.0 if norm is None else norm.eps,
        K=inputs,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=min(config.block_k, width),
        WIDTH=width,
        NORM=norm is not None,
        ADD=residual is not None,
        GATED=gated,
        HAS_BIAS=bias is not None,
        EVEN_N=outputs % config.block_n == 0,
        EVICTION=config.eviction,
        STAGES=config.num_stages,
        wait=config.wait,
        release=config.release,
        **config.launch_options(),
    )
    return out, added
