"""Products with weights of 8 or 4 bits: dequantised in registers, activations left as they are.

`x` `[T, K]` times the transposed weight `[N, K]`. A program takes a tile of channels by rows, with
the weight as the left operand: at few rows the matrix units are filled by channels, and the
dequantised tile need not pass through shared memory. Sums are fp32. A scale of a whole channel is
applied to the sum. So are int4's scales of groups, or, at many rows, to the numbers, which are then
rounded to the dtype of `x`; all else is exact.

Where few tiles would leave processors idle, K is split among programs ("split-K"). Each stores its
sum, and the last to arrive adds all of them, always in the same order.

A weight is packed in chunks of 128 inputs, a tile of one chunk lies in one piece, and a word of 16
bits holds inputs that stand a quarter (int4) or half a chunk apart: so words next to each other
unpack to numbers next to each other without moving bits sideways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from windlass.config import Quantization
from windlass.kernels.quantization import INT4_GROUP, round_to_fp8, round_to_int4, round_to_int8
from windlass.kernels.triton.launch import LaunchConfig

CHUNK = 128
"""Inputs that are summed in one step; K is padded with zeros to a multiple."""
PARTS: dict[Quantization, int] = {"int8": 2, "fp8": 2, "int4": 4}
"""Numbers in a word of 16 bits, by format."""
_CHUNK = tl.constexpr(CHUNK)


@triton.jit
def unpacked(words, PART: tl.constexpr, FORMAT: tl.constexpr, DTYPE: tl.constexpr):
    """The numbers in part PART of int16 words, in `DTYPE`, exactly; part 0 has the lowest bits."""
    if FORMAT == "int4":
        # The four bits become the last of the fp32 number 2**23, whose steps are 1: a sum of 16-bit
        # integers, to which LLVM turns `float(bits) - 8`, ptxas 12.8 compiles wrongly for sm_90.
        bits = words.to(tl.int32) >> 4 * PART & 15 | 0x4B000000
        numbers = bits.to(tl.float32, bitcast=True) - 8388616.0
    else:
        byte = (words >> 8 * PART & 255).to(tl.uint8)
        if FORMAT == "int8":
            numbers = byte.to(tl.int8, bitcast=True).to(tl.float32)
        else:
            numbers = byte.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    return numbers.to(DTYPE)


@dataclass(frozen=True, kw_only=True)
class QuantizedConfig(LaunchConfig):
    """The tile of a program: `rows` of `x` by `channels` of the weight, powers of 2.

    K is divided among up to `splits` programs. Programs that run at the same time cover `band`
    tiles of rows, so that they share what they read in the cache. With `scale_sums` int4's scales
    are applied to sums of groups, which costs less than scaling the numbers only at few rows.
    `unpacked` is the function of this module or a chip's own in its place.
    """

    rows: int = 16
    channels: int = 64
    splits: int = 1
    band: int = 8
    scale_sums: bool = True
    unpacked: Any = field(default=unpacked, repr=False)


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
def _sum_of_splits(total, partial, arrived):
    """Store this split's total; whether all have arrived, and then the sum of all."""
    CHANNELS: tl.constexpr = total.shape[0]
    ROWS: tl.constexpr = total.shape[1]
    tile, tiles, splits = tl.program_id(0), tl.num_programs(0), tl.num_programs(1)
    inside = tl.arange(0, CHANNELS)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    start = (tl.program_id(1) * tiles + tile).to(tl.int64) * (CHANNELS * ROWS)
    tl.store(partial + start + inside, total)
    # The barrier orders the stores of all threads before the one that counts.
    tl.debug_barrier()
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == splits - 1
    if last:
        total = tl.zeros_like(total)
        for split in range(splits):
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
    SPLIT: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Write the tile, by the last of its splits."""
    if SPLIT:
        last, total = _sum_of_splits(total, partial, arrived)
        if last:
            _store(total, bias, out, out_stride, row, channel, T, N, BIAS)
    else:
        _store(total, bias, out, out_stride, row, channel, T, N, BIAS)


@triton.jit
def _add_part(
    total,
    words,
    scale,
    x,
    PART: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    unpacked: tl.constexpr,
):
    """`total` plus the product of a part of a chunk; of int4, a group and its scale."""
    numbers = unpacked(words, PART, FORMAT, x.dtype)
    if FORMAT == "int4":
        bits = (scale >> 16 * PART & 0xFFFF).to(tl.uint16)
        factor = bits.to(tl.float16, bitcast=True).to(tl.float32)[:, None]
        if SCALE_SUMS:
            total += _add_product(tl.zeros_like(total), numbers, x) * factor
        else:
            total = _add_product(total, (numbers.to(tl.float32) * factor).to(x.dtype), x)
    else:
        total = _add_product(total, numbers, x)
    return total


@triton.jit
def _add_chunk(
    total,
    words,
    scale,
    activations,
    first,
    K,
    PARTS: tl.constexpr,
    FORMAT: tl.constexpr,
    EVEN: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    unpacked: tl.constexpr,
):
    """`total` plus the product of the chunk of inputs from `first`."""
    WORDS: tl.constexpr = _CHUNK // PARTS
    for part in tl.static_range(PARTS):
        inputs = first + part * WORDS + tl.arange(0, WORDS)
        x = _load_x(activations + part * WORDS, inputs, K, EVEN)
        total = _add_part(total, words, scale, x, part, FORMAT, SCALE_SUMS, unpacked)
    return total


@triton.jit(do_not_specialize=["T", "steps"])
def quantized_linear_kernel(
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
    FORMAT: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLIT: tl.constexpr,
    BAND: tl.constexpr,
    EVEN: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE_SUMS: tl.constexpr,
    unpacked: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """`out = x @ weight.T + bias` for a weight that `pack` packed; a split sums `steps` chunks."""
    first_row, first_channel = _tile(T, N, ROWS, CHANNELS, BAND)
    row = first_row + tl.arange(0, ROWS)
    channel = first_channel + tl.arange(0, CHANNELS)
    # Rows and channels beyond the end repeat the last one: only the store is masked.
    held = tl.minimum(channel, N - 1)
    begin = tl.program_id(1) * steps
    end = min(begin + steps, tl.cdiv(K, _CHUNK))
    WORDS: tl.constexpr = _CHUNK // PARTS
    word = tl.arange(0, WORDS)
    start = begin.to(tl.int64) * N
    words = weight + start * WORDS + held[:, None] * WORDS + word[None, :]
    inputs = begin * _CHUNK
    activations = x + tl.minimum(row, T - 1).to(tl.int64)[:, None] * x_stride
    activations += inputs + word[None, :]
    # What does not change is loaded before the wait: the first chunk and the scales.
    factors = scales + start + held if FORMAT == "int4" else scales + held
    tile, scale = tl.load(words), tl.load(factors)
    wait()
    release()
    total = tl.zeros((CHANNELS, ROWS), tl.float32)
    total = _add_chunk(
        total, tile, scale, activations, inputs, K, PARTS, FORMAT, EVEN, SCALE_SUMS, unpacked
    )
    for _ in range(begin + 1, end):
        words += N * WORDS
        activations += _CHUNK
        inputs += _CHUNK
        tile = tl.load(words)
        if FORMAT == "int4":
            factors += N
            scale = tl.load(factors)
        total = _add_chunk(
            total, tile, scale, activations, inputs, K, PARTS, FORMAT, EVEN, SCALE_SUMS, unpacked
        )
    if FORMAT != "int4":
        total *= scale[:, None]
    _finish(total, bias, out, out_stride, partial, arrived, row, channel, T, N, SPLIT, BIAS)


def pack(weight: torch.Tensor, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight `[N, K]` as the reference does: what the kernel reads, and its scales.

    The weight becomes int16 `[chunks, N, words]`; scales are float32 `[N]`, of int4 int64
    `[chunks, N]`, each the bits of a chunk's four fp16 scales, the first one's lowest.
    """
    channels, inputs = weight.shape
    padded = F.pad(weight.float(), (0, -inputs % CHUNK))
    if quantization == "int4":
        integers, scales = round_to_int4(padded.view(channels, -1, INT4_GROUP))
        nibbles = (integers + 8).to(torch.int16).view(channels, -1, 4, INT4_GROUP)
        words = nibbles[:, :, 0]
        for part in range(1, 4):
            words = words | nibbles[:, :, part] << 4 * part
        bits = scales.half().view(channels, -1, 4).transpose(0, 1).contiguous()
        return words.transpose(0, 1).contiguous(), bits.view(torch.int64)[..., 0]
    if quantization == "int8":
        numbers, scales = round_to_int8(padded)
        numbers = numbers.to(torch.int8)
    else:
        numbers, scales = round_to_fp8(padded)
    halves = numbers.view(torch.uint8).view(channels, -1, 2, CHUNK // 2)
    pairs = halves.permute(1, 0, 3, 2).contiguous()
    return pairs.view(torch.int16)[..., 0], scales[:, 0]


def tiles(rows: int, channels: int, config: QuantizedConfig) -> int:
    """Programs for `x` of so many rows and a weight of so many channels, not counting splits."""
    return -(-rows // config.rows) * -(-channels // config.channels)


def quantized_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    arrived: torch.Tensor,
    quantization: Quantization,
    config: QuantizedConfig,
) -> None:
    """Write `x` `[T, K]` times a weight from `pack`, plus `bias` `[N]`, to `out` `[T, N]`.

    Rows of `x` and `out` are contiguous; `out` has any floating dtype. `arrived`: int32 zeros, at
    least `tiles` of them where `config.splits` is over 1, which the kernel leaves zero; launches
    that share it must not run at the same time.

    Raises:
        ValueError: the operands do not fit each other.
    """
    rows, inputs = x.shape
    chunks, channels, _ = weight.shape
    steps = -(-chunks // config.splits)
    splits = -(-chunks // steps)
    count = tiles(rows, channels, config)
    if not 0 <= chunks * CHUNK - inputs < CHUNK:
        raise ValueError(f"{inputs} inputs of x meet {chunks} chunks of a weight")
    if x.stride(1) != 1 or out.stride(1) != 1 or not weight.is_contiguous():
        raise ValueError("x and out need contiguous rows, the weight must be contiguous")
    if splits > 1 and arrived.numel() < count:
        raise ValueError(f"{count} tiles need as many counters, not {arrived.numel()}")
    partial = out
    if splits > 1:
        size = splits * count * config.rows * config.channels
        partial = torch.empty(size, dtype=torch.float32, device=out.device)
    quantized_linear_kernel[(count, splits)](
        x,
        weight,
        scales,
        x if bias is None else bias,
        out,
        partial,
        arrived,
        rows,
        channels,
        inputs,
        x.stride(0),
        out.stride(0),
        steps,
        FORMAT=quantization,
        PARTS=PARTS[quantization],
        ROWS=config.rows,
        CHANNELS=config.channels,
        SPLIT=splits > 1,
        BAND=config.band,
        EVEN=inputs % CHUNK == 0,
        BIAS=bias is not None,
        SCALE_SUMS=config.scale_sums,
        unpacked=config.unpacked,
        wait=config.wait,
        release=config.release,
        **config.launch_options(),
    )
