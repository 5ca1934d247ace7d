"""One decoder layer, op by op."""

from __future__ import annotations

import torch

from windlass.backend import ForwardContext, LayerParts, MLPWeights, OpRegistry
from windlass.layers.attention import SelfAttention
from windlass.layers.mlp import GatedMLP
from windlass.layers.sparse_moe import SparseMoE


class DecoderLayer:
    """Attention and feed-forward, each after a norm (pre-norm), around one residual stream."""

    def __init__(self, parts: LayerParts, ops: OpRegistry) -> None:
        weights = parts.weights
        self.input_norm = weights.input_norm
        self.attention = SelfAttention(parts, ops)
        self.post_attention_norm = weights.post_attention_norm
        mlp = weights.mlp
        self.mlp: GatedMLP | SparseMoE
        if isinstance(mlp, MLPWeights):
            self.mlp = GatedMLP(gate_up=mlp.gate_up, down=mlp.down, ops=ops)
        else:
            self.mlp = SparseMoE(mlp, ops)
        self.eps = parts.eps
        self._rms_norm = ops.rms_norm
        self._add_rms_norm = ops.add_rms_norm

    def __call__(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        context: ForwardContext,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(output not yet added to the residual, residual), all `[T, H]`; the first layer gets
        no residual."""
        if residual is None:
            residual, hidden = hidden, self._rms_norm(hidden, self.input_norm, self.eps)
        else:
            hidden, residual = self._add_rms_norm(hidden, residual, self.input_norm, self.eps)
        hidden = self.attention(hidden, positions, context)
        hidden, residual = self._add_rms_norm(hidden, residual, self.post_attention_norm, self.eps)
        return self.mlp(hidden), residual
