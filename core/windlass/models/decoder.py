"""The decoder: one forward pass for every architecture that `DecoderConfig` can describe."""

from __future__ import annotations

import torch

from windlass.backend import Backend, OpRegistry
from windlass.layers.attention import SelfAttention
from windlass.layers.context import ForwardContext
from windlass.layers.mlp import GatedMLP
from windlass.layers.rotary_embedding import cos_sin_table
from windlass.models.config import DecoderConfig
from windlass.models.weights import DecoderWeights, LayerWeights


class DecoderLayer:
    """Attention and feed-forward, each after a norm (pre-norm), around one residual stream."""

    def __init__(
        self,
        layer: int,
        config: DecoderConfig,
        weights: LayerWeights,
        cos_sin: torch.Tensor,
        ops: OpRegistry,
    ) -> None:
        self.input_norm = weights.input_norm
        self.attention = SelfAttention(
            layer=layer,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=config.windows[layer],
            qkv=weights.qkv,
            o=weights.o,
            norm=weights.head_norm,
            cos_sin=cos_sin,
            ops=ops,
        )
        self.post_attention_norm = weights.post_attention_norm
        self.mlp = GatedMLP(gate_up=weights.gate_up, down=weights.down, ops=ops)
        self.eps = config.rms_norm_eps
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


class Decoder:
    """A decoder-only transformer on one backend.

    T tokens of all requests side by side, R rows whose logits are wanted, H hidden size,
    V vocabulary.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, backend: Backend) -> None:
        self.config = config
        ops = backend.ops
        cos_sin = cos_sin_table(
            config.rope.inv_freq,
            config.rope.attention_scaling,
            config.max_position,
            backend.device.torch_device,
        )
        self.embedding = weights.embedding
        self.layers = [
            DecoderLayer(layer, config, layer_weights, cos_sin, ops)
            for layer, layer_weights in enumerate(weights.layers)
        ]
        self.norm = weights.norm
        self.lm_head = weights.lm_head
        self._add_rms_norm = ops.add_rms_norm

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> torch.Tensor:
        """Hidden states `[T, H]` after the final norm, for int64 tokens and positions `[T]`.

        Keys and values of the tokens are in the context's pool afterwards.
        """
        hidden: torch.Tensor = self.embedding.rows(token_ids)
        residual: torch.Tensor | None = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, positions, context)
        hidden, _ = self._add_rms_norm(hidden, residual, self.norm, self.config.rms_norm_eps)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits `[R, V]` of hidden states `[R, H]`."""
        return self.lm_head.float32(hidden)
