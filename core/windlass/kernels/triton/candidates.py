"""What the chunks of a row of logits have: their largest, their masses, and who may be drawn.

The first two steps of `windlass.kernels.triton.sampling`, which has the letters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from windlass.kernels.triton.threshold import lowest_mass, mass_of, search


@triton.jit
def filters_of(
    index,
    top_k,
    top_p,
    min_p,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    HAS_MIN_P: tl.constexpr,
):
    """The row's top_k, top_p, min_p, and whether any is on."""
    k = tl.load(top_k + index).to(tl.int32) if HAS_TOP_K else tl.full((), 0, tl.int32)
    p = tl.load(top_p + index).to(tl.float32) if HAS_TOP_P else tl.full((), 1.0, tl.float32)
    smallest = tl.load(min_p + index).to(tl.float32) if HAS_MIN_P else tl.full((), 0.0, tl.float32)
    return k, p, smallest, (k > 0) | (p < 1) | (smallest > 0)


@triton.jit
def chunks_of(partials, row, plane, SPLITS: tl.constexpr, CHUNKS: tl.constexpr):
    """Largest logits, their indices and masses of a row's chunks, and the row's largest.

    A chunk with NaN has NaN as its largest, and counts as infinite.
    """
    chunk = tl.arange(0, CHUNKS)
    pointers, real = partials + row * SPLITS + chunk, chunk < SPLITS
    stored = tl.load(pointers, mask=real, other=float("-inf")).to(tl.float32)
    maxima = tl.where(stored != stored, float("inf"), stored)  # noqa: PLR0124 - NaN
    indices = tl.load(pointers + plane, mask=real, other=0.0).to(tl.int32)
    return stored, maxima, indices, tl.max(maxima, axis=0)


@triton.jit
def chunk_masses(
    partials, row, plane, maxima, temperature, scaled_largest,
    SPLITS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Float64 masses of a row's chunks, relative to the row's largest."""
    chunk = tl.arange(0, CHUNKS)
    pointers = partials + 2 * plane + row * SPLITS + chunk
    own = tl.load(pointers, mask=chunk < SPLITS, other=0.0)
    return own * mass_of(maxima, temperature, scaled_largest).to(tl.float64)


@triton.jit(do_not_specialize=["plane", "vocab_size"])
def partials_kernel(
    logits,
    rows,
    temperature,
    top_k,
    partials,
    scratch,
    logits_stride,
    plane,
    vocab_size,
    INDEXED: tl.constexpr,
    RANDOM: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R, chunks). `partials` float64 `[5, R, chunks]`: largest, index, mass; then of
    `candidates_kernel` the number of candidates, and the bits of the mass that all of them have.

    `scratch` float32 `[R, chunks, BLOCK / GROUP + KEPT]`: the largest logit of each group of a
    row with top-k, then candidates.
    """
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    GROUPS: tl.constexpr = BLOCK // GROUP
    group = tl.arange(0, GROUPS)
    token = chunk * BLOCK + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    real = token < vocab_size
    x = tl.load(logits + row * logits_stride + token, mask=real, other=float("-inf"))
    not_a_number = x != x  # noqa: PLR0124
    key = tl.where(not_a_number, float("inf"), x)
    group_maxima = tl.max(key, axis=1)
    largest = tl.max(group_maxima, axis=0)
    first = tl.min(tl.min(tl.where((key == largest) & real, token, vocab_size), axis=1), axis=0)
    broken = tl.max(tl.max(not_a_number.to(tl.int32), axis=1), axis=0) > 0
    place = row * SPLITS + chunk
    tl.store(partials + place, tl.where(broken, float("nan"), largest).to(tl.float64))
    tl.store(partials + plane + place, first.to(tl.float64))
    if RANDOM:
        index = tl.load(rows + row) if INDEXED else row
        heat = tl.load(temperature + index)
        if heat > 0:
            shift = tl.where(largest == float("-inf"), 0.0, largest)
            masses = mass_of(x, heat, tl.div_rn(shift, heat)).to(tl.float64)
            tl.store(partials + 2 * plane + place, tl.sum(tl.sum(masses, axis=1), axis=0))
            if HAS_TOP_K:  # noqa: SIM102 - the other condition is no constant
                if tl.load(top_k + index) > 0:
                    tl.store(scratch + place * (GROUPS + KEPT) + group, group_maxima)


@triton.jit(do_not_specialize=["plane", "vocab_size"])
def candidates_kernel(
    logits,
    rows,
    temperature,
    top_k,
    top_p,
    min_p,
    partials,
    scratch,
    logits_stride,
    plane,
    vocab_size,
    INDEXED: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    HAS_MIN_P: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    wait: tl.constexpr,
    release: tl.constexpr,
):
    """Grid (R, chunks): list the logits of a chunk that the row's filters may keep, by id."""
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(rows + row) if INDEXED else row
    heat = tl.load(temperature + index)
    k, p, smallest, filtered = filters_of(
        index, top_k, top_p, min_p, HAS_TOP_K, HAS_TOP_P, HAS_MIN_P
    )
    if (heat > 0) & filtered:
        GROUPS: tl.constexpr = BLOCK // GROUP
        WIDTH: tl.constexpr = GROUPS + KEPT
        _, maxima, _, largest = chunks_of(partials, row, plane, SPLITS, CHUNKS)
        scaled_largest = tl.div_rn(largest, heat)
        masses = chunk_masses(partials, row, plane, maxima, heat, scaled_largest, SPLITS, CHUNKS)
        total = tl.sum(masses, axis=0).to(tl.float32)
        lowest = lowest_mass(k, p, smallest, total, vocab_size)
        row_scratch = scratch + row * (SPLITS * WIDTH)
        if k > 0:
            # The k-th largest of the groups' largest is at most the k-th largest of all.
            counts = tl.where(tl.arange(0, CHUNKS) < SPLITS, GROUPS, 0)
            lowest = search(
                row_scratch, WIDTH, counts, GROUPS, heat, scaled_largest, lowest, k,
                True, GROUP, CHUNKS, GROUPS,
            )  # fmt: skip
        chunk = tl.program_id(1)
        token = chunk * BLOCK + tl.arange(0, BLOCK)
        real = token < vocab_size
        x = tl.load(logits + row * logits_stride + token, mask=real, other=float("-inf"))
        kept = mass_of(x, heat, scaled_largest).to(tl.int32, bitcast=True) >= lowest
        kept = (kept & real).to(tl.int32)
        place = tl.cumsum(kept, axis=0) - 1
        tl.store(row_scratch + chunk * WIDTH + GROUPS + place, x, mask=(kept > 0) & (place < KEPT))
        count = tl.sum(kept, axis=0).to(tl.float64)
        tl.store(partials + 3 * plane + row * SPLITS + chunk, count)
        tl.store(partials + 4 * plane + row * SPLITS + chunk, lowest.to(tl.float64))
