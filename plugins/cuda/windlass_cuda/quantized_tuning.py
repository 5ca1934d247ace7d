"""Tiles of the products with rounded weights, by architecture and number of rows."""

from __future__ import annotations

from dataclasses import replace

from windlass.backend import Quantization
from windlass.kernels.triton.quantized_linear import CHUNK, QuantizedConfig, tiles
from windlass_cuda.conversions import unpacked_to_bf16
from windlass_cuda.overlap import overlap

MAX_SPLIT_TILES = 1024
"""Most tiles whose inputs are split: so many counters a weight needs."""
_MIN_STEPS = 4
"""Steps below which a split would mostly wait for its first loads."""

_TILES = (
    (16, QuantizedConfig(rows=16, channels=64, num_warps=4, num_stages=4)),
    (32, QuantizedConfig(rows=32, channels=64, num_warps=4, num_stages=4)),
    (64, QuantizedConfig(rows=64, channels=64, num_warps=4, num_stages=3)),
)
_MANY_ROWS = QuantizedConfig(rows=128, channels=128, num_warps=8, num_stages=3)
_LITTLE_SHARED_MEMORY = frozenset({"sm_86", "sm_89", "sm_120"})
"""99 KiB for a program, where others have 163 or more."""
_SCALED_SUMS = 32
"""Rows up to which scaling the sums of int4 groups costs less than scaling the numbers."""
_PROGRAMS = {16: 4, 32: 4, 64: 3, 128: 1}
"""Programs that a multiprocessor holds at once, by the rows of their tiles."""


def choose(
    arch: str,
    multiprocessors: int,
    quantization: Quantization,
    rows: int,
    channels: int,
    inputs: int,
) -> QuantizedConfig:
    """The tile for `rows` of `x` and a weight `[channels, inputs]` on `arch` ("sm_90").

    K is split where the tiles alone would not fill the multiprocessors.
    """
    config = next((config for most, config in _TILES if rows <= most), _MANY_ROWS)
    if arch in _LITTLE_SHARED_MEMORY:
        config = replace(config, num_stages=2)
    count = tiles(rows, channels, config)
    splits = 1
    if count <= MAX_SPLIT_TILES:
        most = max(1, inputs // (CHUNK * _MIN_STEPS))
        splits = min(most, max(1, multiprocessors * _PROGRAMS[config.rows] // count))
    return replace(
        config,
        splits=splits,
        scale_sums=config.rows <= _SCALED_SUMS,
        unpacked=unpacked_to_bf16,
        **overlap(arch),
    )
