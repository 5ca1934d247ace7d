"""Tiles of the products with rounded weights, by format and number of rows.

Chosen by instruction counts and memory in flight for sm_90; `benchmarks/gpu/quantized_linear.py`
measures others and prints entries for this table.
"""

from __future__ import annotations

from typing import NamedTuple

from windlass.backend import Quantization
from windlass.kernels.triton.quantized_linear import CHUNK, QuantizedConfig, tiles
from windlass_cuda.conversions import unpacked_to_bf16
from windlass_cuda.overlap import overlap

MAX_SPLIT_TILES = 1024
"""Most tiles whose inputs are split: so many counters a weight needs."""
_MIN_STEPS = 4
"""Steps below which a split would mostly wait for its first loads."""
_SCALED_SUMS = 32
"""Rows up to which scaling the sums of int4 groups costs less than scaling the numbers."""
_LITTLE_SHARED_MEMORY = frozenset({"sm_86", "sm_89", "sm_120"})
"""99 KiB for a program, where others have 163 or more."""


class Tile(NamedTuple):
    """The tile for up to `rows` rows, and how many programs of it a multiprocessor should get."""

    rows: int
    channels: int
    num_warps: int
    num_stages: int
    programs: int


_EIGHT_BITS = (
    Tile(16, 64, 4, 4, 4),
    Tile(32, 64, 4, 4, 4),
    Tile(64, 64, 4, 3, 3),
    Tile(128, 128, 8, 3, 1),
)
TILES: dict[Quantization, tuple[Tile, ...]] = {
    "int8": _EIGHT_BITS,
    "fp8": _EIGHT_BITS,
    "int4": (
        Tile(16, 64, 4, 5, 4),
        Tile(32, 64, 4, 4, 4),
        Tile(64, 64, 4, 3, 3),
        Tile(128, 128, 8, 3, 1),
    ),
}
"""For each format its tiles, from the fewest rows to the most."""


def choose(
    arch: str,
    multiprocessors: int,
    quantization: Quantization,
    rows: int,
    channels: int,
    inputs: int,
) -> QuantizedConfig:
    """The tile for `rows` of `x` and a weight `[channels, inputs]` on `arch` ("sm_90")."""
    table = TILES[quantization]
    tile = next((tile for tile in table if rows <= tile.rows), table[-1])
    return config_of(tile, arch, multiprocessors, rows, channels, inputs)


def config_of(
    tile: Tile, arch: str, multiprocessors: int, rows: int, channels: int, inputs: int
) -> QuantizedConfig:
    """A tile as the kernel takes it; K is split where tiles are too few for the GPU."""
    return QuantizedConfig(
        rows=tile.rows,
        channels=tile.channels,
        num_warps=tile.num_warps,
        num_stages=2 if arch in _LITTLE_SHARED_MEMORY else tile.num_stages,
        splits=_splits(tile, multiprocessors, rows, channels, inputs),
        scale_sums=tile.rows <= _SCALED_SUMS,
        unpacked=unpacked_to_bf16,
        **overlap(arch),
    )


def _splits(tile: Tile, multiprocessors: int, rows: int, channels: int, inputs: int) -> int:
    count = tiles(rows, channels, QuantizedConfig(rows=tile.rows, channels=tile.channels))
    if count > MAX_SPLIT_TILES:
        return 1
    most = max(1, inputs // (CHUNK * _MIN_STEPS))
    return min(most, max(1, multiprocessors * tile.programs // count))
