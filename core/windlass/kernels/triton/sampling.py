"""Choosing tokens without sorting, by the definitions of `windlass.kernels.sampling`.

R rows of V float32 logits. Each row is cut into chunks, so that the whole chip reads one row:

1. `partials_kernel` finds of each chunk the largest logit, where it stands, and the mass that the
   chunk has (unnormalised probability relative to its largest);
2. `candidates_kernel`, in rows with top-k, top-p or min-p, lists the logits that may be kept;
3. `choose_kernel` joins the chunks: it searches the threshold among the candidates, finds the chunk
   in which the random number falls, and in it the token.

Every row does what its own parameters ask for: a greedy row pays for no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from windlass.kernels.triton.candidates import (
    candidates_kernel,
    chunk_masses,
    chunks_of,
    filters_of,
    partials_kernel,
)
from windlass.kernels.triton.launch import LaunchConfig
from windlass.kernels.triton.threshold import mass_above, mass_of, search


@dataclass(frozen=True, kw_only=True)
class SampleConfig(LaunchConfig):
    """Powers of 2: `block` logits a chunk, in groups of `group`; `kept` candidates of a chunk.

    A row of which a chunk has more candidates than `kept` is searched whole, which is slow.
    `choose_warps` are those of the kernel that joins the chunks.
    """

    block: int = 4096
    group: int = 64
    kept: int = 512
    choose_warps: int = 8


@dataclass(frozen=True, kw_only=True)
class SampleParameters:
    """Columns that `rows` index, or without it one entry a row; None: off in every row.

    As in `windlass.kernels.sampling.sample`; all are contiguous.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    min_p: torch.Tensor | None
    seed: torch.Tensor
    position: torch.Tensor
    rows: torch.Tensor | None = None

    @property
    def filtered(self) -> bool:
        """Whether a row may have a filter."""
        return not (self.top_k is None and self.top_p is None and self.min_p is None)


@triton.jit
def _uniform(seed, position):
    """`windlass.kernels.philox_uniform`, in float64."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    zero = low * 0
    word, _, _, _ = tl.philox(seed, low, high, zero, zero)
    return (word >> 8).to(tl.float64) * 5.9604644775390625e-8


@triton.jit
def _kept_masses(
    logits, partials, candidates, masses, row, plane, k, p, smallest, heat, scaled_largest,
    vocab_size, SPLITS: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr, KEPT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The filters' threshold, and float64 `[CHUNKS]` what each chunk keeps above it.

    `logits` and `candidates` point to the row's.
    """
    chunk = tl.arange(0, CHUNKS)
    pointers = partials + 3 * plane + row * SPLITS + chunk
    counts = tl.load(pointers, mask=chunk < SPLITS, other=0.0).to(tl.int32)
    width = tl.max(counts, axis=0)
    total = tl.sum(masses, axis=0).to(tl.float32)
    # What is no candidate stays out, even if all candidates stay in.
    bits = tl.load(partials + 4 * plane + row * SPLITS).to(tl.int32)
    values = candidates
    stride = tl.full((), WIDTH, tl.int32)
    if width > KEPT:
        values = logits
        stride = tl.full((), BLOCK, tl.int32)
        counts = tl.minimum(tl.maximum(vocab_size - chunk * BLOCK, 0), BLOCK)
        width = tl.full((), BLOCK, tl.int32)
    if k > 0:
        bits = search(
            values, stride, counts, width, heat, scaled_largest, bits, k,
            True, 0, CHUNKS, COLUMNS,
        )  # fmt: skip
    if p < 1:
        if (k > 0) | (smallest > 0):
            _, left = mass_above(
                values, stride, counts, width, heat, scaled_largest, bits, CHUNKS, COLUMNS
            )
            total = tl.sum(left, axis=0).to(tl.float32)
        bits = search(
            values, stride, counts, width, heat, scaled_largest, bits, p * total,
            False, 0, CHUNKS, COLUMNS,
        )  # fmt: skip
    _, kept = mass_above(values, stride, counts, width, heat, scaled_largest, bits, CHUNKS, COLUMNS)
    return bits, kept


@triton.jit
def _draw(
    logits, masses, uniform, bits, heat, scaled_largest, vocab_size,
    SPLITS: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first token at which the cumulative kept mass exceeds `uniform` of the whole."""
    chunk = tl.arange(0, CHUNKS)
    cumulative = tl.cumsum(masses, axis=0)
    target = uniform * tl.max(cumulative, axis=0)
    chosen = tl.min(tl.where(cumulative > target, chunk, SPLITS - 1), axis=0)
    before = tl.sum(tl.where(chunk < chosen, masses, 0.0), axis=0)
    own = tl.sum(tl.where(chunk == chosen, masses, 0.0), axis=0)
    column = tl.arange(0, BLOCK)
    token = chosen * BLOCK + column
    x = tl.load(logits + token, mask=token < vocab_size, other=float("-inf"))
    mass = mass_of(x, heat, scaled_largest)
    mass = tl.where(mass.to(tl.int32, bitcast=True) >= bits, mass, 0.0).to(tl.float64)
    within = tl.cumsum(mass, axis=0)
    # As a share of the chunk, whose mass was added up in another order before.
    target = (target - before) / own * tl.max(within, axis=0)
    first = tl.min(tl.where(within > target, column, BLOCK), axis=0)
    last = tl.max(tl.where(mass > 0, column, 0), axis=0)
    return chosen * BLOCK + tl.minimum(first, last)


@triton.jit(do_not_specialize=["plane", "vocab_size"])
def choose_kernel(
    logits,
    rows,
    temperature,
    top_k,
    top_p,
    min_p,
    seed,
    position,
    partials,
    scratch,
    tokens,
    largest_out,
    finite_out,
    last_token,
    logits_stride,
    plane,
    vocab_size,
    INDEXED: tl.constexpr,
    RANDOM: tl.constexpr,
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
    """Grid (R,): join a row's chunks and choose its token. With INDEXED a step's last work:

    whether the largest logit is finite, and the table's `last_token`; without it the largest.
    """
    wait()
    release()
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(rows + row) if INDEXED else row
    stored, maxima, indices, largest = chunks_of(partials, row, plane, SPLITS, CHUNKS)
    token = tl.min(tl.where(maxima == largest, indices, vocab_size), axis=0)
    if RANDOM:
        heat = tl.load(temperature + index)
        if heat > 0:
            row_logits = logits + row * logits_stride
            scaled_largest = tl.div_rn(largest, heat)
            masses = chunk_masses(
                partials, row, plane, maxima, heat, scaled_largest, SPLITS, CHUNKS
            )
            bits = tl.full((), 0, tl.int32)
            if HAS_TOP_K or HAS_TOP_P or HAS_MIN_P:
                k, p, smallest, filtered = filters_of(
                    index, top_k, top_p, min_p, HAS_TOP_K, HAS_TOP_P, HAS_MIN_P
                )
                if filtered:
                    GROUPS: tl.constexpr = BLOCK // GROUP
                    WIDTH: tl.constexpr = GROUPS + KEPT
                    bits, masses = _kept_masses(
                        row_logits, partials, scratch + row * (SPLITS * WIDTH) + GROUPS, masses,
                        row, plane, k, p, smallest, heat, scaled_largest,
                        vocab_size, SPLITS, CHUNKS, BLOCK, WIDTH, KEPT, GROUP,
                    )  # fmt: skip
            uniform = _uniform(tl.load(seed + index), tl.load(position + index))
            token = _draw(
                row_logits, masses, uniform, bits, heat, scaled_largest,
                vocab_size, SPLITS, CHUNKS, BLOCK,
            )  # fmt: skip
    token = tl.minimum(token, vocab_size - 1).to(tl.int64)
    tl.store(tokens + row, token)
    broken = tl.max((stored != stored).to(tl.int32), axis=0) > 0  # noqa: PLR0124 - NaN
    if INDEXED:
        tl.store(finite_out + row, (tl.abs(largest) < float("inf")) & (broken == 0))
        tl.store(last_token + index, token)
    else:
        tl.store(largest_out + row, tl.where(broken, float("nan"), largest))


def greedy(logits: torch.Tensor, config: SampleConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.sampling.greedy`."""
    largest = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    return largest, choose(logits, None, config, largest=largest)


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    seed: torch.Tensor,
    position: torch.Tensor,
    config: SampleConfig,
) -> torch.Tensor:
    """`windlass.kernels.sampling.sample`."""
    parameters = SampleParameters(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=position,
    )
    largest = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    return choose(logits, parameters, config, largest=largest)


def choose(
    logits: torch.Tensor,
    parameters: SampleParameters | None,
    config: SampleConfig,
    *,
    largest: torch.Tensor | None = None,
    finite: torch.Tensor | None = None,
    last_token: torch.Tensor | None = None,
) -> torch.Tensor:
    """A token of each row of float32 logits `[R, V]`, int64 `[R]`; without parameters the largest.

    Without `parameters.rows`, `largest` float32 `[R]` receives the row's largest logit. With it,
    `finite` bool `[R]` receives whether that is finite, and `last_token` int64, a column of the
    table, the token.
    """
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows == 0:
        return tokens
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    block, group, kept = config.block, config.group, config.kept
    splits = triton.cdiv(vocab_size, block)
    chunks = triton.next_power_of_2(splits)
    partials = torch.empty((5, num_rows, splits), dtype=torch.float64, device=logits.device)
    p = parameters
    filtered = p is not None and p.filtered
    width = block // group + kept if filtered else 0
    scratch = torch.empty((num_rows, splits, width), dtype=torch.float32, device=logits.device)
    # A column that no row has is not read: any pointer stands for it.
    rows = logits if p is None or p.rows is None else p.rows
    heat, seed, position = (logits,) * 3 if p is None else (p.temperature, p.seed, p.position)
    filters = (None,) * 3 if p is None else (p.top_k, p.top_p, p.min_p)
    top_k, top_p, min_p = (logits if column is None else column for column in filters)
    has = tuple(column is not None for column in filters)
    indexed, random = p is not None and p.rows is not None, p is not None
    sizes = (logits.stride(0), num_rows * splits, vocab_size)
    hooks, options = (config.wait, config.release), config.launch_options()
    partials_kernel[(num_rows, splits)](
        logits, rows, heat, top_k, partials, scratch, *sizes,
        indexed, random, has[0], splits, block, group, kept, *hooks, **options,
    )  # fmt: skip
    options["num_warps"] = config.choose_warps
    if filtered:
        candidates_kernel[(num_rows, splits)](
            logits, rows, heat, top_k, top_p, min_p, partials, scratch, *sizes,
            indexed, *has, splits, chunks, block, group, kept, *hooks, **options,
        )  # fmt: skip
    choose_kernel[(num_rows,)](
        logits, rows, heat, top_k, top_p, min_p, seed, position, partials, scratch, tokens,
        tokens if largest is None else largest, tokens if finite is None else finite,
        tokens if last_token is None else last_token, *sizes,
        indexed, random, *has, splits, chunks, block, group, kept, *hooks, **options,
    )  # fmt: skip
    return tokens
