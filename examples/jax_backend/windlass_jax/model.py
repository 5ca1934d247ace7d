"""The decoder: Llama, Mistral, Qwen2 and Qwen3 without experts, one compiled layer a bucket."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from windlass.checkpoint import DecoderConfig
from windlass_jax.attention import KVBlocks, Tiles, attend, write
from windlass_jax.weights import Layer, Linear, Weights

Cache = tuple[KVBlocks, ...]
"""The KV cache: one part for each layer."""


class Batch(NamedTuple):
    """The T tokens of a step, padded to a bucket; every array is int32.

    `token_ids` `[T]` (-1: the token that `rows` sampled last), `rows` `[T]` of the request table,
    `positions` `[T]` (-1: padding), `tile_rows` `[N]`; the others as in `Tiles`.
    """

    token_ids: jax.Array
    rows: jax.Array
    positions: jax.Array
    tile_rows: jax.Array
    tile_tokens: jax.Array
    tile_positions: jax.Array
    place: jax.Array


class _Step(NamedTuple):
    """What every layer needs: the tiles, where keys go, and the rotations `[T, 1, D / 2]`."""

    tiles: Tiles
    slots: jax.Array
    cos: jax.Array
    sin: jax.Array


def forward(
    weights: Weights,
    cache: Cache,
    block_tables: jax.Array,
    last_token: jax.Array,
    batch: Batch,
    config: DecoderConfig,
) -> tuple[jax.Array, Cache]:
    """Hidden states `[T, H]` before the final norm, and the cache with the tokens' keys and values.

    `block_tables` int32 `[rows, C]` and `last_token` int32 `[rows]` are the request table. The
    cache is given away. All layers run one program, which is compiled once and not once a layer.
    """
    capacity = cache[0].keys.shape[:2]
    hidden, step = _begin(
        weights.embedding, weights.cos_sin, block_tables, last_token, batch, capacity
    )
    written = []
    for weight, blocks, window in zip(weights.layers, cache, config.windows, strict=True):
        hidden, new_blocks = _layer(weight, blocks, hidden, step, config, window)
        written.append(new_blocks)
    return hidden, tuple(written)


@partial(jax.jit, static_argnames="capacity")
def _begin(
    embedding: jax.Array,
    cos_sin: jax.Array,
    block_tables: jax.Array,
    last_token: jax.Array,
    batch: Batch,
    capacity: tuple[int, int],
) -> tuple[jax.Array, _Step]:
    """Embeddings `[T, H]`, and the step; `capacity` is (blocks, tokens of a block)."""
    num_blocks, size = capacity
    tables = block_tables[batch.tile_rows]
    width = batch.tile_tokens.shape[1]
    positions = jnp.maximum(batch.positions, 0)
    block = tables[batch.place // width, positions // size]
    slots = jnp.where(batch.positions < 0, num_blocks * size, block * size + positions % size)
    token_ids = jnp.where(batch.token_ids < 0, last_token[batch.rows], batch.token_ids)
    cos, sin = jnp.split(cos_sin[positions][:, None], 2, axis=-1)
    tiles = Tiles(tables, batch.tile_tokens, batch.tile_positions, batch.place)
    return embedding[token_ids], _Step(tiles, slots, cos, sin)


@partial(jax.jit, static_argnames=("config", "window"), donate_argnames=("blocks", "hidden"))
def _layer(
    layer: Layer,
    blocks: KVBlocks,
    hidden: jax.Array,
    step: _Step,
    config: DecoderConfig,
    window: int,
) -> tuple[jax.Array, KVBlocks]:
    """One layer. Its blocks are donated: XLA writes keys and values where they lie."""
    normed = _rms_norm(hidden, layer.input_norm, config.rms_norm_eps)
    query, key, value = _project(layer, normed, step.cos, step.sin, config)
    blocks = write(blocks, key, value, step.slots)
    attended = attend(blocks, query, step.tiles, window)
    hidden = hidden + _linear(layer.o, attended.reshape(len(hidden), -1))
    return hidden + _mlp(layer, hidden, config.rms_norm_eps), blocks


@partial(jax.jit, static_argnames="eps")
def final_states(hidden: jax.Array, index: jax.Array, norm: jax.Array, eps: float) -> jax.Array:
    """The hidden states at int32 `index` `[R]` after the final norm: `[R, H]`."""
    return _rms_norm(hidden[index], norm, eps)


def logits_of(lm_head: jax.Array, hidden: jax.Array) -> jax.Array:
    """Float32 logits `[R, V]` of hidden states `[R, H]`."""
    return jnp.einsum("rh,vh->rv", hidden, lm_head, preferred_element_type=jnp.float32)


def _project(
    layer: Layer, x: jax.Array, cos: jax.Array, sin: jax.Array, config: DecoderConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value heads, rotated: `[T, heads, D]`."""
    parts = jnp.split(
        _linear(layer.qkv, x), (config.q_size, config.q_size + config.kv_size), axis=-1
    )
    query, key, value = (part.reshape(len(x), -1, config.head_dim) for part in parts)
    if layer.query_norm is not None and layer.key_norm is not None:
        query = _rms_norm(query, layer.query_norm, config.rms_norm_eps)
        key = _rms_norm(key, layer.key_norm, config.rms_norm_eps)
    return _rotate(query, cos, sin), _rotate(key, cos, sin), value


def _mlp(layer: Layer, hidden: jax.Array, eps: float) -> jax.Array:
    """The gated feed-forward layer (SwiGLU; Shazeer, 2020)."""
    x = _linear(layer.gate_up, _rms_norm(hidden, layer.post_attention_norm, eps))
    gate, up = jnp.split(x, 2, axis=-1)
    return _linear(layer.down, jax.nn.silu(gate) * up)


def _linear(linear: Linear, x: jax.Array) -> jax.Array:
    product = jnp.einsum("tk,nk->tn", x, linear.weight)
    return product if linear.bias is None else product + linear.bias


def _rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last axis, in float32 (Zhang and Sennrich, 2019)."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + eps)
    return weight * normed.astype(x.dtype)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al., 2021), halves rotated against each other."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x.dtype)
