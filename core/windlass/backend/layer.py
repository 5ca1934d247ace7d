"""One decoder layer: its parts as a model hands them over, and what a backend may make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from windlass.backend.attention import Attention, AttentionParams, HeadNorm
from windlass.backend.kv_cache import KVPool
from windlass.backend.linear import Linear
from windlass.kernels.experts import PackedExperts


@dataclass(frozen=True, kw_only=True)
class MLPWeights:
    """A gated feed-forward layer (SwiGLU); gate and up are merged along their outputs."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """A sparse feed-forward layer: `router` chooses `top_k` experts for each token.

    `renormalize` as in the op `route_experts`.
    """

    router: Linear
    experts: PackedExperts
    top_k: int
    renormalize: bool


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """Packed weights; `qkv` is merged along its outputs. Norm weights `[H]`."""

    input_norm: torch.Tensor
    qkv: Linear
    head_norm: HeadNorm | None
    o: Linear
    post_attention_norm: torch.Tensor
    mlp: MLPWeights | ExpertWeights


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """Everything that defines a pre-norm decoder layer with grouped-query attention and SwiGLU.

    `index` counts from 0; `eps` belongs to the layer's norms; `cos_sin` is the float32 rotary table
    `[positions, rotated]`, shared by all layers.
    """

    index: int
    weights: LayerWeights
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    attention: AttentionParams
    cos_sin: torch.Tensor


@dataclass(slots=True)
class ForwardContext:
    """The step's attention: planned once, used by every layer.

    `slot_mapping` is `[T]` in the pool layout's slot dtype, -1 for padding.
    """

    attention: Attention
    pool: KVPool
    plan: object
    slot_mapping: torch.Tensor


LayersFunction = Callable[
    [torch.Tensor, torch.Tensor, ForwardContext], tuple[torch.Tensor, torch.Tensor]
]
"""All layers of a decoder: `(hidden, positions, context)` to `(output of the last layer, not yet
added to the residual stream; residual stream)`.

`hidden` `[T, H]` is what the embedding gave, and may be overwritten; both results are `[T, H]`,
`positions` int64 `[T]`."""
