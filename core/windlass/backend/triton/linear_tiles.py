"""Rules for the tiles of dense linear layers over few rows, for chips of any width."""

from __future__ import annotations

from typing import NamedTuple

VECTOR_ROWS = 2
"""Rows up to which multiplying without matrix instructions keeps up with memory."""
_BIG_WEIGHT = 32 << 20
"""Numbers in a weight so big that few programs more or less do not matter."""
_FUSED_INPUTS = 8192
"""Rows times inputs up to which every program may compute the norm before its product again."""
_NUMBERS = 64
"""Numbers of a weight that a lane holds at once."""


class Tiles(NamedTuple):
    """The tiles of a `windlass.kernels.triton.fused_linear.LinearConfig`."""

    block_m: int
    block_n: int
    block_k: int
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 1


def padded_rows(rows: int) -> int:
    """`rows` rounded up to a power of two."""
    return 1 << (rows - 1).bit_length()


def worth_fusing(block_m: int, inputs: int) -> bool:
    """Whether `block_m` rows of so many inputs may be normalised again by every program."""
    return block_m <= VECTOR_ROWS and block_m * inputs <= _FUSED_INPUTS


def vector_tiles(block_m: int, outputs: int, inputs: int, lanes: int, *, gated: bool) -> Tiles:
    """Tiles without matrix instructions for `block_m` rows and warps of `lanes`.

    A whole row of the weight at once where it fits into registers: no loop, and every byte of the
    weight is on its way before the kernel waits.
    """
    width = padded_rows(inputs)
    threads = 256 if width >= 4096 and outputs * inputs > _BIG_WEIGHT // 4 else 128
    numbers = _NUMBERS * threads
    # More outputs a program where there are more than enough programs.
    numbers *= 2 if outputs >= 64 << 10 and block_m == 1 else 1
    block_k = min(width, 4096)
    while block_k > 512 and block_k < width and inputs % block_k:
        block_k //= 2
    block_n = max(1, numbers // block_k // (2 if gated else 1))
    return Tiles(block_m, block_n, block_k, num_warps=max(threads // lanes, 1))
