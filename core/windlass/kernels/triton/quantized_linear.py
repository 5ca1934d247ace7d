"""Products with weights of 8 or 4 bits: dequantised in registers, activations left as they are.

`x` `[T, K]` times the transposed weight `[N, K]`. A program takes a tile of channels by rows, with
the weight as the left operand: at few rows the tensor units are filled by channels, and the
dequantised tile need not pass through shared memory. Numbers of 8 bits are exact in the dtype of
`x`, so that their scale is applied to the sum; int4 is scaled in fp32 by groups and rounded to the
dtype of `x`. Sums are fp32.

Where few tiles would leave processors idle, K is split among programs ("split-K"). Each stores its
sum, and the last to arrive adds all of them, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.launch import LaunchConfig

INT4_CHUNK = 64
"""Inputs in a packed int4 chunk: two groups, one in the low and one in the high halves of bytes."""
_CHUNK_BYTES = tl.constexpr(32)


@dataclass(frozen=True, kw_only=True)
class QuantizedConfig(LaunchConfig):
    """The tile of a program: `rows` of `x` by `channels` of the weight, powers of 2.

    `inputs` are summed in one step; for int4 always 64, and `unroll` steps become one. K is
    divided among up to `splits` programs. Programs that run at the same time cover `band` tiles of
    rows, so that they share what they read in the cache.
    """

    rows: int = 16
    channels: int = 64
    inputs: int = 128
    unroll: int = 1
    splits: int = 1
    band: int = 8


@triton.jit
def _tile(T, N, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BAND: tl.constexpr):
    """The first row and the first channel of this program's tile."""
    program = tl.program_id(0)
    row_tiles = tl.cdiv(T, ROWS)
    width = BAND * tl.cdiv(N, CHANNELS)
    first = program // width * BAND
    height = min(row_tiles - first, BAND)
    within = program % width
    return (first + within % height) * ROWS, within // height * CHANNELS


@triton.jit
def _add_product(total, weight, x):
    """`total` `[channels, rows]` plus a step's product, exact where operands are fp32."""
    return tl.dot(weight, tl.trans(x), total, input_precision="ieee")


@triton.jit
def _load_x(pointers, inputs, K, EVEN: tl.constexpr):
    """Activations `[rows, inputs]`; where K is no multiple of a step, 0 beyond it."""
    if EVEN:
        return tl.load(pointers)
    return tl.load(pointers, mask=(inputs < K)[None, :], other=0.0)


@triton.jit
def _sum_of_splits(total, partial, arrived, SPLITS: tl.constexpr):
    """Store this split's total; whether all have arrived, and then the sum of all."""
    CHANNELS: tl.constexpr = total.shape[0]
    ROWS: tl.constexpr = total.shape[1]
    tile, tiles = tl.program_id(0), tl.num_programs(0)
    inside = tl.arange(0, CHANNELS)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    start = (tl.program_id(1) * tiles + tile).to(tl.int64) * (CHANNELS * ROWS)
    tl.store(partial + start + inside, total)
    # The barrier orders the stores of all threads before the one that counts.
    tl.debug_barrier()
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLITS - 1
    if last:
        total = tl.zeros_like(total)
        for split in range(SPLITS):
            start = (split * tiles + tile).to(tl.int64) * (CHANNELS * ROWS)
            total += tl.load(partial + start + inside, cache_modifier=".cg")
        tl.store(arrived + tile, 0)
    return last, total


@triton.jit
def _store(total, bias, out, out_stride, row, channel, T, N, BIAS: tl.constexpr):
    """Add the bias and write the tile `[channels, rows]` to `out` `[T, N]`."""
    if BIAS:
        total += tl.load(bias + channel, mask=channel < N, other=0.0).to(tl.float32)[:, None]
    pointers = out + row.to(tl.int64)[:, None] * out_stride + channel[None, :]
    mask = (row < T)[:, None] & (channel < N)[None, :]
    tl.store(pointers, tl.trans(total).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _finish(
    total,
    bias,
    out,
    out_stride,
    partial,
    arrived,
    row,
    channel,
    T,
    N,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Write the tile, by the last of its splits."""
    if SPLITS > 1:
        last, total = _sum_of_splits(total, partial, arrived, SPLITS)
        if last:
            _store(total, bias, out, out_stride, row, channel, T, N, BIAS)
    else:
        _store(total, bias, out, out_stride, row, channel, T, N, BIAS)


@triton.jit
def channel_scaled_kernel(
    x,
    weight,
    scales,
    bias,
    out,
    partial,
    arrived,
    T,
    N,
    K,
    x_stride,
    weight_stride,
    out_stride,
    steps,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BAND: tl.constexpr,
    EVEN: tl.constexpr,
    BIAS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """`out = x @ (weight * scales).T + bias` for int8 or e4m3 numbers `[N, weight_stride]`.

    A split sums `steps` steps of INPUTS; rows of the weight are padded to whole steps.
    """
    first_row, first_channel = _tile(T, N, ROWS, CHANNELS, BAND)
    row = first_row + tl.arange(0, ROWS)
    channel = first_channel + tl.arange(0, CHANNELS)
    # Rows and channels beyond the end repeat the last one: only the store is masked.
    held = tl.minimum(channel, N - 1)
    begin = tl.program_id(1) * steps
    end = min(begin + steps, tl.cdiv(K, INPUTS))
    inputs = begin * INPUTS + tl.arange(0, INPUTS)
    weights = weight + held.to(tl.int64)[:, None] * weight_stride + inputs[None, :]
    activations = x + tl.minimum(row, T - 1).to(tl.int64)[:, None] * x_stride + inputs[None, :]
    scale = tl.load(scales + held)
    numbers = tl.load(weights)
    wait()
    release()
    left = _load_x(activations, inputs, K, EVEN)
    total = _add_product(tl.zeros((CHANNELS, ROWS), tl.float32), numbers.to(left.dtype), left)
    for _ in range(begin + 1, end):
        weights += INPUTS
        activations += INPUTS
        inputs += INPUTS
        left = _load_x(activations, inputs, K, EVEN)
        total = _add_product(total, tl.load(weights).to(left.dtype), left)
    total *= scale[:, None]
    _finish(total, bias, out, out_stride, partial, arrived, row, channel, T, N, SPLITS, BIAS)


@triton.jit
def _dequantized(integers, scale, DTYPE: tl.constexpr):
    """Offset integers 0 to 15 `[channels, 32]` times fp16 scales given as bits, in `DTYPE`."""
    factor = (scale & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    return ((integers.to(tl.float32) - 8.0) * factor[:, None]).to(DTYPE)


@triton.jit
def _add_chunk(total, packed, scale, activations, first, K, EVEN: tl.constexpr):
    """`total` plus the product of a chunk: 64 inputs from `first`."""
    inputs = first + tl.arange(0, _CHUNK_BYTES)
    low = _load_x(activations, inputs, K, EVEN)
    total = _add_product(total, _dequantized(packed & 15, scale, low.dtype), low)
    high = _load_x(activations + _CHUNK_BYTES, inputs + _CHUNK_BYTES, K, EVEN)
    return _add_product(total, _dequantized(packed >> 4, scale >> 16, high.dtype), high)


@triton.jit
def int4_kernel(
    x,
    weight,
    scales,
    bias,
    out,
    partial,
    arrived,
    T,
    N,
    K,
    x_stride,
    out_stride,
    steps,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNROLL: tl.constexpr,
    SPLITS: tl.constexpr,
    BAND: tl.constexpr,
    EVEN: tl.constexpr,
    BIAS: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """`out = x @ weight.T + bias` for a weight that `pack_int4` packed.

    A split sums `steps` chunks.
    """
    first_row, first_channel = _tile(T, N, ROWS, CHANNELS, BAND)
    row = first_row + tl.arange(0, ROWS)
    channel = first_channel + tl.arange(0, CHANNELS)
    # Rows and channels beyond the end repeat the last one: only the store is masked.
    held = tl.minimum(channel, N - 1)
    begin = tl.program_id(1) * steps
    end = min(begin + steps, tl.cdiv(K, 2 * _CHUNK_BYTES))
    byte = tl.arange(0, _CHUNK_BYTES)
    start = begin.to(tl.int64) * N
    weights = weight + start * _CHUNK_BYTES + held[:, None] * _CHUNK_BYTES + byte[None, :]
    factors = scales + start + held
    inputs = begin * 2 * _CHUNK_BYTES
    activations = x + tl.minimum(row, T - 1).to(tl.int64)[:, None] * x_stride
    activations += inputs + byte[None, :]
    packed, scale = tl.load(weights), tl.load(factors)
    wait()
    release()
    total = tl.zeros((CHANNELS, ROWS), tl.float32)
    total = _add_chunk(total, packed, scale, activations, inputs, K, EVEN)
    for _ in tl.range(begin + 1, end, loop_unroll_factor=UNROLL):
        weights += N * _CHUNK_BYTES
        factors += N
        activations += 2 * _CHUNK_BYTES
        inputs += 2 * _CHUNK_BYTES
        packed, scale = tl.load(weights), tl.load(factors)
        total = _add_chunk(total, packed, scale, activations, inputs, K, EVEN)
    _finish(total, bias, out, out_stride, partial, arrived, row, channel, T, N, SPLITS, BIAS)


def pack_int4(integers: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The form that `int4_kernel` reads, chunk by chunk so that a tile is contiguous.

    `integers` `[N, groups, 32]`, -8 to 7 in any dtype, and `scales` `[N, groups, 1]` become uint8
    `[chunks, N, 32]`, the first group of a chunk in the low halves of the bytes, and int32
    `[chunks, N]`, each the bits of two fp16 scales, the first one's low. An odd number of groups
    gets one of zeros.
    """
    if integers.shape[1] % 2:
        integers = torch.nn.functional.pad(integers, (0, 0, 0, 1))
        scales = torch.nn.functional.pad(scales, (0, 0, 0, 1))
    offset = (integers + 8).to(torch.uint8)
    packed = offset[:, ::2] | offset[:, 1::2] << 4
    pairs = scales.half().view(len(scales), -1, 2).transpose(0, 1).contiguous()
    return packed.transpose(0, 1).contiguous(), pairs.view(torch.int32)[..., 0]


def tiles(rows: int, channels: int, config: QuantizedConfig) -> int:
    """Programs for `x` of so many rows and a weight of so many channels, not counting splits."""
    return -(-rows // config.rows) * -(-channels // config.channels)


def channel_scaled_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    arrived: torch.Tensor,
    config: QuantizedConfig,
) -> None:
    """Write `x @ (weight * scales).T + bias` to `out` `[T, N]`, in its dtype.

    `x` is `[T, K]` with contiguous rows; `weight` int8 or float8_e4m3fn `[N, P]`, where P is K
    padded with zeros to a multiple of `config.inputs`; `scales` float32 `[N]`. `arrived`: int32
    zeros, at least `tiles` of them where `config.splits` is over 1, which the kernel leaves zero;
    launches that share it must not run at the same time.

    Raises:
        ValueError: the operands do not fit each other or the tile.
    """
    rows, inputs = x.shape
    channels, padded = weight.shape
    steps, splits = _divided(-(-inputs // config.inputs), config.splits)
    count = tiles(rows, channels, config)
    if not inputs <= padded or padded % config.inputs:
        raise ValueError(f"{inputs} inputs, padded to {padded}, in steps of {config.inputs}")
    _check(x, weight, out, arrived, splits, count)
    channel_scaled_kernel[(count, splits)](
        x,
        weight,
        scales,
        x if bias is None else bias,
        out,
        _partial(out, splits, count, config),
        arrived,
        rows,
        channels,
        inputs,
        x.stride(0),
        padded,
        out.stride(0),
        steps,
        ROWS=config.rows,
        CHANNELS=config.channels,
        INPUTS=config.inputs,
        SPLITS=splits,
        BAND=config.band,
        EVEN=inputs % config.inputs == 0,
        BIAS=bias is not None,
        wait=config.wait,
        release=config.release,
        **config.launch_options(),
    )


def int4_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    arrived: torch.Tensor,
    config: QuantizedConfig,
) -> None:
    """Write `x` `[T, K]` times a weight from `pack_int4`, plus bias, to `out` `[T, N]`.

    As `channel_scaled_linear` otherwise.
    """
    rows, inputs = x.shape
    chunks, channels, _ = weight.shape
    steps, splits = _divided(chunks, config.splits)
    count = tiles(rows, channels, config)
    if not 0 <= chunks * INT4_CHUNK - inputs < INT4_CHUNK:
        raise ValueError(f"{inputs} inputs of x meet {chunks} chunks of a weight")
    _check(x, weight, out, arrived, splits, count)
    int4_kernel[(count, splits)](
        x,
        weight,
        scales,
        x if bias is None else bias,
        out,
        _partial(out, splits, count, config),
        arrived,
        rows,
        channels,
        inputs,
        x.stride(0),
        out.stride(0),
        steps,
        ROWS=config.rows,
        CHANNELS=config.channels,
        UNROLL=config.unroll,
        SPLITS=splits,
        BAND=config.band,
        EVEN=inputs % INT4_CHUNK == 0,
        BIAS=bias is not None,
        wait=config.wait,
        release=config.release,
        **config.launch_options(),
    )


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    arrived: torch.Tensor,
    splits: int,
    count: int,
) -> None:
    if x.stride(1) != 1 or out.stride(1) != 1 or not weight.is_contiguous():
        raise ValueError("x and out need contiguous rows, the weight must be contiguous")
    if splits > 1 and arrived.numel() < count:
        raise ValueError(f"{count} tiles need as many counters, not {arrived.numel()}")


def _divided(steps: int, splits: int) -> tuple[int, int]:
    """Steps of each split, and how many splits then have any."""
    each = -(-steps // splits)
    return each, -(-steps // each)


def _partial(out: torch.Tensor, splits: int, count: int, config: QuantizedConfig) -> torch.Tensor:
    """Room for the totals of all splits; anything where there is only one."""
    if splits == 1:
        return out
    size = splits * count * config.rows * config.channels
    return torch.empty(size, dtype=torch.float32, device=out.device)
