"""The smallest probability that top-k and top-p keep, found by bisection: nothing is sorted.

A token's mass is its probability relative to the largest one, exp(x / T - max / T), which lies in
[0, 1]. Floats of that range are ordered as their bits are, so a threshold is searched among bits:
each pass over the candidates halves what is left, and few candidates need few passes.
"""

from __future__ import annotations

import triton
import triton.language as tl

ABOVE_ONE = tl.constexpr(0x3F800001)
"""Bits of the smallest float32 above 1."""

TINY = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32: less is never kept by top-k or top-p."""


@triton.jit
def mass_of(x, temperature, scaled_largest):
    """Masses of float32 logits; `scaled_largest` is the row's largest logit over `temperature`."""
    return tl.exp(tl.div_rn(x, temperature) - scaled_largest)


@triton.jit
def mass_above(
    values,
    stride,
    counts,
    width,
    temperature,
    scaled_largest,
    bits,
    CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of each chunk of candidates: how many have at least the mass of `bits`, and their masses.

    Chunk c's logits stand at `values + c * stride`, `counts[c]` of them, none more than `width`.
    Returns int32 and float64 `[CHUNKS]`.
    """
    chunk = tl.arange(0, CHUNKS)
    count = tl.zeros([CHUNKS], tl.int32)
    mass = tl.zeros([CHUNKS], tl.float64)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        listed = column[None, :] < counts[:, None]
        pointers = values + chunk[:, None] * stride + column[None, :]
        x = tl.load(pointers, mask=listed, other=float("-inf"))
        masses = mass_of(x, temperature, scaled_largest)
        kept = masses.to(tl.int32, bitcast=True) >= bits
        count += tl.sum(kept.to(tl.int32), axis=1)
        mass += tl.sum(tl.where(kept, masses, 0.0), axis=1).to(tl.float64)
    return count, mass


@triton.jit
def search(
    values,
    stride,
    counts,
    width,
    temperature,
    scaled_largest,
    low,
    need,
    BY_COUNT: tl.constexpr,
    SLACK: tl.constexpr,
    CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Bits of a threshold of at least `low` that keeps just as much as is needed.

    By count: `need` candidates and those that tie with the last of them, or up to SLACK more;
    all if there are fewer. By mass: the fewest largest candidates whose mass reaches `need`, a
    float32, and those that tie with the last of them.
    """
    count, mass = mass_above(
        values, stride, counts, width, temperature, scaled_largest, low, CHUNKS, COLUMNS
    )
    low_count = tl.sum(count, axis=0)
    high_count = low_count * 0
    high = low * 0 + ABOVE_ONE
    open_count = low_count - need.to(tl.int32) - SLACK if BY_COUNT else low_count - 1
    while (high - low > 1) & (open_count > 0):
        middle = low + (high - low) // 2
        count, mass = mass_above(
            values, stride, counts, width, temperature, scaled_largest, middle, CHUNKS, COLUMNS
        )
        found = tl.sum(count, axis=0)
        reached = found >= need if BY_COUNT else tl.sum(mass, axis=0).to(tl.float32) >= need
        low = tl.where(reached, middle, low)
        low_count = tl.where(reached, found, low_count)
        high = tl.where(reached, high, middle)
        high_count = tl.where(reached, high_count, found)
        # One candidate between the ends is the last one kept.
        open_count = (
            low_count - need.to(tl.int32) - SLACK if BY_COUNT else low_count - high_count - 1
        )
    return low


@triton.jit
def lowest_mass(top_k, top_p, min_p, total, vocab_size):
    """Bits of a mass that no token has that all filters together refuse for being too small.

    With top-p alone: V tokens below (1 - p) / V of the total mass cannot hold what it leaves out.
    `total` is the row's whole mass, float32; top-k is a filter of its own.
    """
    floor = tl.maximum(min_p, TINY)
    if (top_k <= 0) & (min_p <= 0) & (top_p < 1):
        floor = tl.maximum(floor, 0.999 * (1.0 - top_p) * total / vocab_size)
    return floor.to(tl.float32).to(tl.int32, bitcast=True)
