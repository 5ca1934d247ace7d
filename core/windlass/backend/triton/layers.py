"""Decoder layers for steps of few tokens: six kernels a layer.

[residual + norm + qkv] [heads' norm, rotation, cache] [attention] [output] [residual + norm +
gate and up + SiLU] [down]. Where launches overlap (`LaunchConfig.wait`), each starts while the one
before it still runs, with its first weights on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from windlass.backend.attention import AttentionParams, HeadNorm
from windlass.backend.layer import ForwardContext, LayerParts, LayersFunction, MLPWeights
from windlass.backend.linear import Linear
from windlass.backend.ops import OpRegistry
from windlass.backend.triton.linear import TritonWeight
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.fused_linear import MAX_ROWS, LinearConfig, Norm, fused_linear


def fuse_layers(
    layers: Sequence[LayerParts], by_ops: LayersFunction, ops: OpRegistry, tuning: TritonTuning
) -> LayersFunction | None:
    """All layers for steps of few tokens, other steps by `by_ops`; None: nothing to fuse.

    Every layer must be dense, with weights that the kernels take (`TritonWeight`).
    """
    if not layers or not all(map(_fusable, layers)):
        return None
    found = [_configs(tuning, rows, layers) for rows in range(1, MAX_ROWS + 1)]
    most_rows = next((rows for rows, configs in enumerate(found) if configs is None), MAX_ROWS)
    if most_rows == 0:
        return None
    chosen = [configs for configs in found[:most_rows] if configs is not None]
    return FusedLayers(layers, by_ops, ops, chosen)


def _fusable(parts: LayerParts) -> bool:
    weights = parts.weights
    if not isinstance(weights.mlp, MLPWeights):
        return False
    linears = (weights.qkv, weights.o, weights.mlp.gate_up, weights.mlp.down)
    return all(isinstance(linear.weight, TritonWeight) for linear in linears)


@dataclass(frozen=True, slots=True)
class _Configs:
    """Tiles of one layer for one number of rows."""

    qkv: LinearConfig
    gate_up: LinearConfig


def _configs(
    tuning: TritonTuning, rows: int, layers: Sequence[LayerParts]
) -> list[_Configs] | None:
    """Tiles of all layers; None where one of them is not worth fusing."""
    found = []
    for parts in layers:
        mlp = parts.weights.mlp
        assert isinstance(mlp, MLPWeights)
        qkv, gate_up = parts.weights.qkv.weight, mlp.gate_up.weight
        first = tuning.fused_config(rows, qkv.out_features, qkv.in_features, gated=False)
        outputs = gate_up.out_features // 2
        second = tuning.fused_config(rows, outputs, gate_up.in_features, gated=True)
        if first is None or second is None:
            return None
        found.append(_Configs(first, second))
    return found


@dataclass(frozen=True, slots=True)
class _FusedLinear:
    """A linear layer with the norm before it."""

    norm: Norm
    weight: torch.Tensor
    bias: torch.Tensor | None
    gated: bool

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, config: LinearConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return fused_linear(
            x,
            self.weight,
            self.bias,
            config,
            norm=self.norm,
            residual=residual,
            gated=self.gated,
        )


def _fused(norm: torch.Tensor, eps: float, linear: Linear, *, gated: bool) -> _FusedLinear:
    weight = linear.weight
    assert isinstance(weight, TritonWeight)
    return _FusedLinear(Norm(norm, eps), weight.weight, linear.bias, gated)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer needs in a step and does not change between steps."""

    index: int
    qkv: _FusedLinear
    heads: list[int]
    head_dim: int
    head_norm: HeadNorm | None
    attention: AttentionParams
    o: Linear
    gate_up: _FusedLinear
    down: Linear


def _layer(parts: LayerParts) -> _Layer:
    weights = parts.weights
    mlp = weights.mlp
    assert isinstance(mlp, MLPWeights)
    return _Layer(
        index=parts.index,
        qkv=_fused(weights.input_norm, parts.eps, weights.qkv, gated=False),
        heads=[parts.num_heads, parts.num_kv_heads, parts.num_kv_heads],
        head_dim=parts.head_dim,
        head_norm=weights.head_norm,
        attention=parts.attention,
        o=weights.o,
        gate_up=_fused(weights.post_attention_norm, parts.eps, mlp.gate_up, gated=True),
        down=mlp.down,
    )


class FusedLayers:
    """A `windlass.backend.LayersFunction`: steps of few tokens fused, the others by the ops.

    `configs[t - 1]` holds the tiles of every layer for steps of t tokens.
    """

    def __init__(
        self,
        layers: Sequence[LayerParts],
        by_ops: LayersFunction,
        ops: OpRegistry,
        configs: Sequence[Sequence[_Configs]],
    ) -> None:
        self._layers = [_layer(parts) for parts in layers]
        self._cos_sin = layers[0].cos_sin
        self._by_ops = by_ops
        self._ops = ops
        self._steps = [list(zip(self._layers, tiles, strict=True)) for tiles in configs]

    @property
    def most_tokens(self) -> int:
        """Tokens up to which a step is fused."""
        return len(self._steps)

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last layer's output and the residual stream, both `[T, H]`."""
        tokens = hidden.shape[0]
        if not 0 < tokens <= len(self._steps):
            return self._by_ops(hidden, positions, context)
        residual: torch.Tensor | None = None
        for layer, configs in self._steps[tokens - 1]:
            qkv, residual = layer.qkv(hidden, residual, configs.qkv)
            attended = self._attend(layer, qkv, positions, context)
            hidden, residual = layer.gate_up(layer.o(attended), residual, configs.gate_up)
            hidden = layer.down(hidden)
        assert residual is not None
        return hidden, residual

    def _attend(
        self, layer: _Layer, qkv: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> torch.Tensor:
        """Attention over the cache: `[T, heads * head_dim]` of the product `[T, outputs]`."""
        tokens = qkv.shape[0]
        qkv = qkv.view(tokens, -1, layer.head_dim)
        query, key, value = qkv.split_with_sizes(layer.heads, dim=1)
        attention, pool = context.attention, context.pool
        query = attention.rope_and_write(
            pool,
            layer.index,
            query,
            key,
            value,
            positions,
            self._cos_sin,
            context.slot_mapping,
            layer.head_norm,
            self._ops,
        )
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        attention.run(pool, layer.index, query, context.plan, layer.attention, out)
        return out.view(tokens, -1)
