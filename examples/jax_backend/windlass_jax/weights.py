"""Weights on the device, in the layout of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import numpy.typing as npt

from windlass.checkpoint import ArraySource, DecoderConfig

DTYPES: dict[str, npt.DTypeLike] = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


class Linear(NamedTuple):
    """`x @ weight.T + bias`; `weight` is `[N, K]`, `bias` `[N]` or None."""

    weight: jax.Array
    bias: jax.Array | None


class Layer(NamedTuple):
    """One decoder layer. Norms are `[H]`, those of query and key heads `[D]` or None."""

    input_norm: jax.Array
    qkv: Linear
    query_norm: jax.Array | None
    key_norm: jax.Array | None
    o: Linear
    post_attention_norm: jax.Array
    gate_up: Linear
    down: Linear


class Weights(NamedTuple):
    """A whole decoder: `embedding` and `lm_head` `[V, H]` (one array where they are tied).

    `cos_sin` float32 `[P, D]` holds the cosines, then the sines of every position. `nbytes` is the
    memory of what came from the checkpoint.
    """

    embedding: jax.Array
    layers: tuple[Layer, ...]
    norm: jax.Array
    lm_head: jax.Array
    cos_sin: jax.Array
    nbytes: int


class _Reader:
    """Reads tensors, converts them and puts them on the device."""

    def __init__(self, source: ArraySource, dtype: npt.DTypeLike, device: jax.Device) -> None:
        self._source = source
        self._dtype = dtype
        self._device = device
        self.nbytes = 0

    def tensor(self, name: str, *shape: int) -> jax.Array:
        return self._put(self._source.read(name, *shape))

    def linear(self, parts: Sequence[tuple[str, int]], columns: int, bias: bool) -> Linear:
        """Linear layers over the same input as one; `parts` are (name, rows)."""
        weight = [self._source.read(f"{name}.weight", rows, columns) for name, rows in parts]
        offset = None
        if bias:
            found = [self._source.read(f"{name}.bias", rows) for name, rows in parts]
            offset = self._put(np.concatenate(found))
        return Linear(self._put(np.concatenate(weight)), offset)

    def _put(self, array: npt.NDArray[Any]) -> jax.Array:
        placed: jax.Array = jax.device_put(array.astype(self._dtype), self._device)
        self.nbytes += placed.nbytes
        return placed


def read_weights(
    source: ArraySource,
    config: DecoderConfig,
    dtype: str,
    device: jax.Device,
    report: Callable[[float], None],
) -> Weights:
    """All weights in `dtype` on `device`; `report` gets the share that is done.

    Raises:
        ModelError: a tensor is missing or has another shape.
    """
    read = _Reader(source, DTYPES[dtype], device)
    shape = config.vocab_size, config.hidden_size
    embedding = read.tensor(f"{source.prefix}embed_tokens.weight", *shape)
    layers = []
    for number in range(config.num_layers):
        report(number / config.num_layers)
        layers.append(_layer(read, config, f"{source.prefix}layers.{number}"))
    tied = config.tie_word_embeddings
    norm = read.tensor(f"{source.prefix}norm.weight", config.hidden_size)
    lm_head = embedding if tied else read.tensor("lm_head.weight", *shape)
    report(1.0)
    return Weights(
        embedding=embedding,
        layers=tuple(layers),
        norm=norm,
        lm_head=lm_head,
        cos_sin=jax.device_put(_cos_sin(config), device),
        nbytes=read.nbytes,
    )


def _layer(read: _Reader, config: DecoderConfig, name: str) -> Layer:
    hidden, width = config.hidden_size, config.intermediate_size
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    qkv = [
        (f"{attention}.q_proj", config.q_size),
        (f"{attention}.k_proj", config.kv_size),
        (f"{attention}.v_proj", config.kv_size),
    ]
    gate_up = [(f"{mlp}.gate_proj", width), (f"{mlp}.up_proj", width)]

    def head_norm(which: str) -> jax.Array | None:
        if not config.qk_norm:
            return None
        return read.tensor(f"{attention}.{which}_norm.weight", config.head_dim)

    return Layer(
        input_norm=read.tensor(f"{name}.input_layernorm.weight", hidden),
        qkv=read.linear(qkv, hidden, config.qkv_bias),
        query_norm=head_norm("q"),
        key_norm=head_norm("k"),
        o=read.linear([(f"{attention}.o_proj", hidden)], config.q_size, config.o_bias),
        post_attention_norm=read.tensor(f"{name}.post_attention_layernorm.weight", hidden),
        gate_up=read.linear(gate_up, hidden, config.mlp_bias),
        down=read.linear([(f"{mlp}.down_proj", hidden)], width, config.mlp_bias),
    )


def _cos_sin(config: DecoderConfig) -> npt.NDArray[np.float32]:
    frequencies = np.asarray(config.rope.inv_freq, dtype=np.float32)
    angles = np.outer(np.arange(config.max_position, dtype=np.float32), frequencies)
    table = np.concatenate((np.cos(angles), np.sin(angles)), axis=-1)
    return np.asarray(table * np.float32(config.rope.attention_scaling), dtype=np.float32)
