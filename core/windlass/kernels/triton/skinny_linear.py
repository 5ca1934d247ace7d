"""A linear layer over up to 64 rows at the speed of memory: the weight is the big operand.

`out^T[N, T] = W[N, K] @ x^T[K, T]`: N fills the tall side of the matrix instructions, the few rows
their narrow side. Where N gives too few programs, several share a tile's inputs (split-K): each
writes its partial sums, and the last to arrive adds all of them in a fixed order, so that equal
calls give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.fused_linear import (
    LinearConfig,
    fused_linear,
    weight_tile,
    with_bias,
)

MIN_BLOCK_N = 16
"""The smallest tile of outputs, hence the most counters that split-K may need."""


@triton.jit
def _input_tile(
    x,
    x_stride,
    start,
    M,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`[BLOCK_M, BLOCK_K]` of the input from column `start`; 0 outside."""
    rows = tl.arange(0, BLOCK_M)
    inputs = start + tl.arange(0, BLOCK_K)
    mask = (rows < M)[:, None]
    if K % BLOCK_K != 0:
        mask = mask & (inputs < K)[None, :]
    return tl.load(x + rows[:, None] * x_stride + inputs[None, :], mask, 0.0)


@triton.jit
def _dot(tile, x_tile, total, PRECISION: tl.constexpr):
    """`total` `[BLOCK_N, BLOCK_M]` plus the weight's tile times the transposed input's."""
    return tl.dot(tile, tl.trans(x_tile), total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["M"])
def skinny_linear_kernel(
    x,
    weight,
    bias,
    out,
    partial,
    counters,
    M,
    N,
    x_stride,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVICTION: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Program (n, s): outputs of tile n, share s of the inputs, in whole tiles of `BLOCK_K`.

    `partial` is float32 `[SPLIT_K, BLOCK_M, N]`, `counters` int32 with a zero for every tile of
    outputs, zero again afterwards. The first tile is used last: the loads of the others are then
    under way before the input is needed.
    """
    release()
    first_row = tl.program_id(0) * BLOCK_N
    share = tl.program_id(1)
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    SHARE: tl.constexpr = (STEPS + SPLIT_K - 1) // SPLIT_K
    first_step = share * SHARE
    last_step = tl.minimum(first_step + SHARE, STEPS)
    first_k = first_step * BLOCK_K
    tile = weight_tile(weight, first_row, first_k, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION)
    wait()

    total = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for step in tl.range(first_step + 1, last_step, num_stages=STAGES):
        start = step * BLOCK_K
        next_tile = weight_tile(weight, first_row, start, N, K, BLOCK_N, BLOCK_K, EVEN_N, EVICTION)
        x_tile = _input_tile(x, x_stride, start, M, K, BLOCK_M, BLOCK_K)
        total = _dot(next_tile, x_tile, total, PRECISION)
    x_tile = _input_tile(x, x_stride, first_k, M, K, BLOCK_M, BLOCK_K)
    total = _dot(tile, x_tile, total, PRECISION)

    rows = tl.arange(0, BLOCK_M)
    outputs = first_row + tl.arange(0, BLOCK_N)
    mask = (rows < M)[:, None] & (outputs < N)[None, :]
    offsets = rows[:, None] * N.to(tl.int64) + outputs[None, :]
    dtype: tl.constexpr = out.dtype.element_ty
    total = tl.trans(total)
    if SPLIT_K == 1:
        tl.store(out + offsets, with_bias(total, bias, outputs, N, dtype, HAS_BIAS), mask)
    else:
        size = BLOCK_M * N.to(tl.int64)
        tl.store(partial + share * size + offsets, total, mask, cache_modifier=".cg")
        # Every thread's partial sums must be out before the counter says so.
        tl.debug_barrier()
        counter = counters + tl.program_id(0)
        arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLIT_K - 1:
            tl.debug_barrier()
            total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
            for other in tl.static_range(SPLIT_K):
                total += tl.load(partial + other * size + offsets, mask, 0.0, cache_modifier=".cg")
            tl.store(out + offsets, with_bias(total, bias, outputs, N, dtype, HAS_BIAS), mask)
            tl.store(counter, 0)


def split_counters(outputs: int, device: torch.device) -> torch.Tensor:
    """Counters for split-K over a weight of `outputs` rows: int32 zeros."""
    count = triton.cdiv(outputs, MIN_BLOCK_N)
    return torch.zeros(count, dtype=torch.int32, device=device)


def skinny_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    config: LinearConfig,
    *,
    counters: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`x @ weight.T + bias` for few rows: `[T, N]`.

    Args:
        x: `[T, K]`, rows contiguous; T at most `config.block_m`. Tiles of less than 16 rows go to
            `fused_linear`, the others to matrix instructions.
        weight: contiguous `[N, K]` of `x`'s dtype.
        bias: `[N]` or None.
        config: the tiles.
        counters: of `split_counters`, for this weight alone; needed where the inputs are split.
        out_dtype: the output's dtype, without it `x`'s.

    Raises:
        ValueError: the operands or the tiles do not fit.
    """
    if config.block_m < 16:
        return fused_linear(x, weight, bias, config, out_dtype=out_dtype)[0]
    rows, inputs = x.shape
    outputs = weight.shape[0]
    if rows > config.block_m:
        raise ValueError(f"{rows} rows do not fit tiles for {config.block_m}")
    if weight.shape[1] != inputs or not weight.is_contiguous() or x.stride(1) != 1:
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit")
    if config.split_k > 1 and counters is None:
        raise ValueError("split-K needs counters")
    out = torch.empty((rows, outputs), dtype=out_dtype or x.dtype, device=x.device)
    # Every share has at least one tile.
    steps = triton.cdiv(inputs, config.block_k)
    split = triton.cdiv(steps, triton.cdiv(steps, min(config.split_k, steps)))
    partial = out
    if split > 1:
        shape = (split, config.block_m, outputs)
        partial = torch.empty(shape, dtype=torch.float32, device=x.device)
    skinny_linear_kernel[(triton.cdiv(outputs, config.block_n), split)](
        x,
        weight,
        x if bias is None else bias,
        out,
        partial,
        x if counters is None else counters,
        rows,
        outputs,
        x.stride(0),
        K=inputs,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        SPLIT_K=split,
        HAS_BIAS=bias is not None,
        EVEN_N=outputs % config.block_n == 0,
        EVICTION=config.eviction,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32",
        STAGES=config.num_stages,
        wait=config.wait,
        release=config.release,
        **config.launch_options(),
    )
    return out
