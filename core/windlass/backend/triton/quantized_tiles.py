"""Rules for the tiles of products with rounded weights: by rows, with K split among programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from windlass.backend.triton.launch_arguments import LaunchArguments, added
from windlass.kernels.triton.quantized_linear import CHUNK, QuantizedConfig, tiles, unpacked

MAX_SPLIT_TILES = 1024
"""Most tiles whose inputs are split: so many counters a weight needs."""
_MIN_STEPS = 4
"""Steps below which a split would mostly wait for its first loads."""
_SCALED_SUMS = 32
"""Rows up to which scaling the sums of int4 groups costs less than scaling the numbers."""


class QuantizedTile(NamedTuple):
    """The tile for up to `rows` rows, and how many programs of it a compute unit should get.

    `options` go to Triton, as those of a `LaunchConfig`.
    """

    rows: int
    channels: int
    num_warps: int
    num_stages: int
    programs: int
    options: tuple[tuple[str, Any], ...] = ()


SMALL_TILES = (
    QuantizedTile(16, 64, 4, 2, 4),
    QuantizedTile(32, 64, 4, 2, 4),
    QuantizedTile(64, 64, 4, 2, 3),
    QuantizedTile(128, 128, 8, 2, 1),
)
"""For chips without a table: two stages, which fit any chip's shared memory."""


def tile_for(table: Sequence[QuantizedTile], rows: int) -> QuantizedTile:
    """The first tile of `table`, from the fewest rows to the most, that holds `rows`."""
    return next((tile for tile in table if rows <= tile.rows), table[-1])


def config_of(
    tile: QuantizedTile,
    units: int,
    rows: int,
    channels: int,
    inputs: int,
    arguments: LaunchArguments,
    unpack: Any = unpacked,  # noqa: ANN401 - a Triton function has no type
) -> QuantizedConfig:
    """A tile as the kernel takes it, for `rows` of x and a weight `[channels, inputs]`.

    K is split where tiles are too few for the chip's `units`. `unpack` is the config's `unpacked`,
    `arguments` are those of every launch.
    """
    config = QuantizedConfig(
        rows=tile.rows,
        channels=tile.channels,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        options=tile.options,
        splits=_splits(tile, units, rows, channels, inputs),
        scale_sums=tile.rows <= _SCALED_SUMS,
        unpacked=unpack,
    )
    return added(config, arguments)


def _splits(tile: QuantizedTile, units: int, rows: int, channels: int, inputs: int) -> int:
    count = tiles(rows, channels, QuantizedConfig(rows=tile.rows, channels=tile.channels))
    if count > MAX_SPLIT_TILES:
        return 1
    most = max(1, inputs // (CHUNK * _MIN_STEPS))
    return min(most, max(1, units * tile.programs // count))
