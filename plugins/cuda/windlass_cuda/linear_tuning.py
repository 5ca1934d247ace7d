"""Which kernel and which tiles a dense linear layer takes, by architecture, rows and shape.

A rule made of the shape, and exceptions that `benchmarks/gpu/linear.py` measured.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from windlass.kernels.triton.fused_linear import LinearConfig
from windlass_cuda.overlap import overlap

MOST_ROWS = 64
"""Rows beyond which the vendor's library is as fast: it then computes more than it reads."""
_VECTOR_ROWS = 2
"""Rows up to which multiplying without matrix instructions keeps up with memory; beyond them only
shapes that were measured take our kernels."""
_BIG_WEIGHT = 32 << 20
"""Numbers in a weight so big that the vendor's library fills the chip with it at any rows."""
_FUSED_INPUTS = 8192
"""Rows times inputs up to which every program may compute the norm before its product again."""


class Tiles(NamedTuple):
    """The tiles of a `LinearConfig`."""

    block_m: int
    block_n: int
    block_k: int
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 1


_MEASURED: dict[tuple[str, int, int, int], Tiles | None] = {
    ("sm_90", 6144, 4096, 4): Tiles(4, 2, 4096),
    ("sm_90", 4096, 4096, 4): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 4096, 4096, 16): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 28672, 4096, 4): Tiles(4, 2, 4096),
    ("sm_90", 28672, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 28672, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
    ("sm_90", 4096, 14336, 1): Tiles(1, 2, 4096),
    ("sm_90", 4096, 14336, 4): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 128256, 4096, 4): Tiles(4, 2, 4096),
    ("sm_90", 128256, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 128256, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
    ("sm_90", 24576, 4096, 4): Tiles(4, 2, 4096),
    ("sm_90", 24576, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 4096, 12288, 4): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 4096, 12288, 16): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 151936, 4096, 4): Tiles(4, 2, 4096),
    ("sm_90", 151936, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 151936, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
    ("sm_90", 4096, 1024, 1): Tiles(1, 4, 1024),
    ("sm_90", 1024, 2048, 1): Tiles(1, 2, 2048),
    ("sm_90", 1024, 2048, 4): Tiles(4, 4, 2048),
    ("sm_90", 6144, 1024, 1): Tiles(1, 4, 1024),
    ("sm_90", 1024, 3072, 4): Tiles(4, 1, 4096),
    ("sm_90", 1024, 3072, 16): Tiles(16, 32, 128, 8, 4, 5),
    ("sm_90", 151936, 1024, 4): Tiles(16, 32, 128, 1, 4, 5),
    ("sm_90", 151936, 1024, 16): Tiles(16, 64, 128, 1, 4, 4),
    # Between rows that were measured, where both take the same tiles.
    ("sm_90", 4096, 4096, 8): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 4096, 12288, 8): Tiles(16, 32, 128, 4, 4, 5),
    ("sm_90", 28672, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 24576, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 128256, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 151936, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
    ("sm_90", 1024, 3072, 8): Tiles(16, 32, 128, 8, 4, 5),
    ("sm_90", 151936, 1024, 8): Tiles(16, 64, 128, 1, 4, 4),
}
"""By architecture, outputs, inputs and rows rounded up to a power of two; None: the library."""

_MEASURED_FUSED: dict[tuple[str, int, int, int, bool], Tiles | None] = {}
"""The same for a product with the norm before it, by whether it is gated; its outputs are those
after the gate. None: not worth fusing."""


def padded_rows(rows: int) -> int:
    """`rows` rounded up to a power of two."""
    return 1 << (rows - 1).bit_length()


@cache
def linear_config(arch: str, rows: int, outputs: int, inputs: int) -> LinearConfig | None:
    """Tiles for `rows` of x and a 16-bit weight `[outputs, inputs]` on `arch` ("sm_90").

    None: the vendor's library.
    """
    if not 0 < rows <= MOST_ROWS:
        return None
    block_m = padded_rows(rows)
    key = (arch, outputs, inputs, block_m)
    if key in _MEASURED:
        return _config(arch, _MEASURED[key])
    if block_m <= _VECTOR_ROWS:
        return _config(arch, _vector_tiles(block_m, outputs, inputs, gated=False))
    return None


@cache
def fused_config(
    arch: str, rows: int, outputs: int, inputs: int, *, gated: bool
) -> LinearConfig | None:
    """Tiles for a norm and the product after it; None: not worth fusing.

    With `gated` the weight is `[2 * outputs, inputs]`, and a gate stands after the product.
    """
    block_m = padded_rows(rows)
    key = (arch, outputs, inputs, block_m, gated)
    if key in _MEASURED_FUSED:
        return _config(arch, _MEASURED_FUSED[key])
    if block_m > _VECTOR_ROWS or block_m * inputs > _FUSED_INPUTS:
        return None
    return _config(arch, _vector_tiles(block_m, outputs, inputs, gated=gated))


def _config(arch: str, tiles: Tiles | None) -> LinearConfig | None:
    return None if tiles is None else LinearConfig(**tiles._asdict(), **overlap(arch))


def _vector_tiles(block_m: int, outputs: int, inputs: int, *, gated: bool) -> Tiles:
    """A whole row of the weight at once where it fits into registers: no loop, and every byte of
    the weight is on its way before the kernel waits."""
    width = padded_rows(inputs)
    num_warps = 8 if width >= 4096 and outputs * inputs > _BIG_WEIGHT // 4 else 4
    numbers = 64 * 32 * num_warps
    # More outputs a program where there are more than enough programs.
    numbers *= 2 if outputs >= 64 << 10 and block_m == 1 else 1
    block_k = min(width, 4096)
    while block_k > 512 and block_k < width and inputs % block_k:
        block_k //= 2
    block_n = max(1, numbers // block_k // (2 if gated else 1))
    return Tiles(block_m, block_n, block_k, num_warps=num_warps)
