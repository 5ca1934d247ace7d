"""The weights of a decoder, merged and packed as its layers use them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from windlass.backend import HeadNorm, PackedWeight
from windlass.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer. Norm weights are `[H]`; `qkv` and `gate_up` are merged along their outputs."""

    input_norm: torch.Tensor
    qkv: Linear
    head_norm: HeadNorm | None
    o: Linear
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class DecoderWeights:
    """A whole decoder: `embedding` `[V, H]`, of which rows are looked up, and `norm` `[H]`.

    `nbytes` is the memory that they take. A tied embedding is the weight of `lm_head`, held and
    counted once, if that keeps its rows.
    """

    embedding: PackedWeight
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    lm_head: Linear
    nbytes: int
