"""Paged attention: keys and values in blocks, each sequence with a table of its blocks.

The tokens of a step lie side by side. Attention regroups them into tiles of queries that belong to
one sequence, so that a tile reads each block once; decodes have tiles of one query.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

KEYS_PER_ROUND = 128
"""Keys that a tile looks at in one round of the loop."""

_NOTHING = -1e30
"""A score that gives no weight, and unlike minus infinity can be subtracted from itself."""


class KVBlocks(NamedTuple):
    """Keys and values of one layer, both `[B, block_size, Hkv, D]`; block 0 is the null block."""

    keys: jax.Array
    values: jax.Array


class Tiles(NamedTuple):
    """How the T tokens of a step are grouped.

    `block_table` int32 `[N, C]` of each tile's sequence; `tokens` int32 `[N, Q]` (T: no token);
    `positions` int32 `[N, Q]` (-1: no token); `place` int32 `[T]`: a token's index among the N * Q.
    """

    block_table: jax.Array
    tokens: jax.Array
    positions: jax.Array
    place: jax.Array


def write(blocks: KVBlocks, key: jax.Array, value: jax.Array, slots: jax.Array) -> KVBlocks:
    """Store `key` and `value` `[T, Hkv, D]` at int32 `slots` `[T]`; slots past the end are left."""
    size = blocks.keys.shape[1]
    block, offset = slots // size, slots % size

    def stored(part: jax.Array, new: jax.Array) -> jax.Array:
        return part.at[block, offset].set(new.astype(part.dtype), mode="drop")

    return KVBlocks(stored(blocks.keys, key), stored(blocks.values, value))


class _Sums(NamedTuple):
    """The softmax so far, per query head: largest score, sum of exponentials, weighted values."""

    largest: jax.Array
    total: jax.Array
    weighted: jax.Array


def attend(blocks: KVBlocks, query: jax.Array, tiles: Tiles, window: int) -> jax.Array:
    """Causal attention of `query` `[T, Hq, D]` over the blocks: `[T, Hq, D]` in its dtype.

    `window` is how many positions a query sees, itself included (0: all). Online softmax (Milakov
    and Gimelshein, 2018) over rounds of keys; the number of rounds is data, not a shape, so one
    compiled program serves every context length.
    """
    size, num_kv_heads, head_dim = blocks.keys.shape[1:]
    num_tiles, width = tiles.tokens.shape
    group = query.shape[1] // num_kv_heads
    queries = query.at[tiles.tokens].get(mode="fill", fill_value=0)
    queries = queries.reshape(num_tiles, width, num_kv_heads, group, head_dim)
    per_round = blocks_per_round(size)
    keys_per_round = per_round * size
    last = tiles.positions[:, None, None, :, None]

    def look(number: jax.Array, sums: _Sums) -> _Sums:
        columns = lax.dynamic_slice_in_dim(tiles.block_table, number * per_round, per_round, axis=1)
        shape = (num_tiles, keys_per_round, num_kv_heads, head_dim)
        keys = blocks.keys[columns].reshape(shape)
        values = blocks.values[columns].reshape(shape)
        positions = number * keys_per_round + jnp.arange(keys_per_round)
        visible = positions <= last
        if window:
            visible &= positions > last - window
        return _add(sums, queries, keys, values, visible)

    empty = jnp.zeros((num_tiles, num_kv_heads, group, width, 1), jnp.float32)
    start = _Sums(
        largest=empty + _NOTHING,
        total=empty,
        weighted=jnp.zeros((*empty.shape[:-1], head_dim), jnp.float32),
    )
    first, end = _rounds(tiles.positions, window, keys_per_round)
    sums = lax.fori_loop(first, end, look, start)
    # A tile's queries that are no tokens have seen nothing.
    out = sums.weighted / jnp.maximum(sums.total, np.finfo(np.float32).tiny)
    out = out.transpose(0, 3, 1, 2, 4).reshape(num_tiles * width, -1, head_dim)
    return jnp.asarray(out[tiles.place], query.dtype)


def blocks_per_round(block_size: int) -> int:
    """Columns of the block table that one round reads; the table is a multiple of it wide."""
    return max(1, KEYS_PER_ROUND // block_size)


def _rounds(
    positions: jax.Array, window: int, keys_per_round: int
) -> tuple[jax.Array | int, jax.Array]:
    """The first round that a query sees anything of, and the round after the last."""
    end = jnp.max(positions) // keys_per_round + 1
    if not window:
        return 0, end
    smallest = jnp.min(jnp.where(positions < 0, np.iinfo(np.int32).max, positions))
    return jnp.maximum(smallest - window + 1, 0) // keys_per_round, end


def _add(
    sums: _Sums, queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array
) -> _Sums:
    """One round: `queries` `[N, Q, Hkv, G, D]`, `keys`, `values` `[N, L, Hkv, D]`."""
    scale = queries.shape[-1] ** -0.5
    scores = jnp.einsum("nqhgd,nlhd->nhgql", queries, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(visible, scores * scale, _NOTHING)
    largest = jnp.maximum(sums.largest, scores.max(-1, keepdims=True))
    shares = jnp.where(visible, jnp.exp(scores - largest), 0.0)
    shrink = jnp.exp(sums.largest - largest)
    # Rounded to the cache's format, as the values are: a product of one format.
    weighted = jnp.einsum(
        "nhgql,nlhd->nhgqd",
        shares.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )
    return _Sums(
        largest=largest,
        total=sums.total * shrink + shares.sum(-1, keepdims=True),
        weighted=sums.weighted * shrink + weighted,
    )
