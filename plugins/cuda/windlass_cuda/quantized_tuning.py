"""Tiles of the products with rounded weights, by format and number of rows.

Chosen by instruction counts and memory in flight for sm_90; `benchmarks/gpu/quantized_linear.py`
measures others and prints entries for this table.
"""

from __future__ import annotations

from windlass.backend import Quantization
from windlass.backend.triton.quantized_tiles import QuantizedTile

_LITTLE_SHARED_MEMORY = frozenset({"sm_86", "sm_89", "sm_120"})
"""99 KiB for a program, where others have 163 or more."""

_EIGHT_BITS = (
    QuantizedTile(16, 64, 4, 4, 4),
    QuantizedTile(32, 64, 4, 4, 4),
    QuantizedTile(64, 64, 4, 3, 3),
    QuantizedTile(128, 128, 8, 3, 1),
)
TILES: dict[Quantization, tuple[QuantizedTile, ...]] = {
    "int8": _EIGHT_BITS,
    "fp8": _EIGHT_BITS,
    "int4": (
        QuantizedTile(16, 64, 4, 5, 4),
        QuantizedTile(32, 64, 4, 4, 4),
        QuantizedTile(64, 64, 4, 3, 3),
        QuantizedTile(128, 128, 8, 3, 1),
    ),
}
"""For each format its tiles, from the fewest rows to the most."""


def tiles_of(arch: str, quantization: Quantization) -> tuple[QuantizedTile, ...]:
    """The format's tiles on `arch` ("sm_90")."""
    tiles = TILES[quantization]
    if arch not in _LITTLE_SHARED_MEMORY:
        return tiles
    return tuple(tile._replace(num_stages=2) for tile in tiles)
