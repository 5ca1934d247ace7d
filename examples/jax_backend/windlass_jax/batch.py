"""From a plan to the padded arrays of `Batch`, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from windlass.step import ScheduledRow
from windlass_jax.buckets import bucket, padded
from windlass_jax.model import Batch

TILE = 16
"""Queries of a tile in a step with prefill; a step of decodes alone has tiles of one."""

FEW_TOKENS, MANY_TOKENS = 32, 128
"""Tokens of the two smallest buckets of a step with prefill; behind them each doubles."""

FEW_TILES = 16
"""Tiles of the smallest bucket of a step with prefill."""


def make_batch(rows: Sequence[ScheduledRow], padding_row: int, device: jax.Device) -> Batch:
    """The tokens of a step in order, grouped into tiles; padding reads the row `padding_row`."""
    decodes = all(row.is_decode for row in rows)
    width = 1 if decodes else TILE
    lens = np.array([row.num_tokens for row in rows], dtype=np.int32)
    count = int(lens.sum())
    size = bucket(count) if decodes else _prefill_bucket(count)
    row_of = np.repeat(np.array([row.row for row in rows], dtype=np.int32), lens)
    starts = np.cumsum(lens) - lens
    within = np.arange(count, dtype=np.int32) - np.repeat(starts, lens).astype(np.int32)
    positions = np.repeat(np.array([row.start for row in rows], dtype=np.int32), lens) + within
    tokens_of = [row.token_ids or [-1] for row in rows]
    token_ids = np.fromiter((token for ids in tokens_of for token in ids), np.int32, count)

    per_row = -(-lens // width)
    first_tile = np.cumsum(per_row) - per_row
    place = (np.repeat(first_tile, lens) * width + within).astype(np.int32)
    num_tiles = size if decodes else bucket(max(int(per_row.sum()), 2), FEW_TILES)
    tile_tokens = np.full(num_tiles * width, size, dtype=np.int32)
    tile_positions = np.full(num_tiles * width, -1, dtype=np.int32)
    tile_tokens[place] = np.arange(count, dtype=np.int32)
    tile_positions[place] = positions
    tile_rows = np.repeat(np.array([row.row for row in rows], dtype=np.int32), per_row)
    arrays = (
        padded(token_ids, size, 0, np.int32),
        padded(row_of, size, padding_row, np.int32),
        padded(positions, size, -1, np.int32),
        padded(tile_rows, num_tiles, padding_row, np.int32),
        tile_tokens.reshape(num_tiles, width),
        tile_positions.reshape(num_tiles, width),
        padded(place, size, 0, np.int32),
    )
    return Batch(*jax.device_put(arrays, device))


def _prefill_bucket(count: int) -> int:
    return FEW_TOKENS if count <= FEW_TOKENS else bucket(count, MANY_TOKENS)
