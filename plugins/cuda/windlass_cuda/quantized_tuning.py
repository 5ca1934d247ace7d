"""Tiles of the products with rounded weights, by architecture and number of rows."""

from __future__ import annotations

from dataclasses import replace

from windlass.backend import Quantization
from windlass.kernels.triton.quantized_linear import INT4_CHUNK, QuantizedConfig, tiles
from windlass_cuda.overlap import overlap

MAX_SPLIT_TILES = 1024
"""Most tiles whose inputs are split: so many counters a weight needs."""
_MIN_STEPS = 4
"""Steps below which a split would mostly wait for its first loads."""

_EIGHT_BITS = (
    (16, QuantizedConfig(rows=16, channels=64, inputs=128, num_warps=4, num_stages=4)),
    (32, QuantizedConfig(rows=32, channels=64, inputs=128, num_warps=4, num_stages=4)),
    (64, QuantizedConfig(rows=64, channels=64, inputs=64, num_warps=4, num_stages=4)),
)
_INT4 = (
    (16, QuantizedConfig(rows=16, channels=64, inputs=64, unroll=2, num_warps=4, num_stages=6)),
    (32, QuantizedConfig(rows=32, channels=64, inputs=64, unroll=2, num_warps=4, num_stages=5)),
    (64, QuantizedConfig(rows=64, channels=64, inputs=64, num_warps=4, num_stages=4)),
)
_MANY_ROWS = QuantizedConfig(rows=128, channels=128, inputs=64, num_warps=8, num_stages=3)

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
    table = _INT4 if quantization == "int4" else _EIGHT_BITS
    config = next((config for most, config in table if rows <= most), _MANY_ROWS)
    count = tiles(rows, channels, config)
    splits = 1
    if count <= MAX_SPLIT_TILES:
        step = INT4_CHUNK if quantization == "int4" else config.inputs
        most = max(1, inputs // (step * _MIN_STEPS))
        splits = min(most, max(1, multiprocessors * _PROGRAMS[config.rows] // count))
    return replace(config, splits=splits, **overlap(arch))
