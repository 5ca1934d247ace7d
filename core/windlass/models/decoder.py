"""The decoder: one forward pass for every architecture that `DecoderConfig` can describe."""

from __future__ import annotations

import torch

from windlass.backend import (
    AttentionParams,
    Backend,
    ForwardContext,
    LayerParts,
    LayerWeights,
)
from windlass.layers.decoder_layer import DecoderLayer
from windlass.layers.rotary_embedding import cos_sin_table
from windlass.models.config import DecoderConfig
from windlass.models.weights import DecoderWeights


class Decoder:
    """A decoder-only transformer on one backend.

    T tokens of all requests side by side, R rows whose logits are wanted, H hidden size,
    V vocabulary.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, backend: Backend) -> None:
        self.config = config
        cos_sin = cos_sin_table(
            config.rope.inv_freq,
            config.rope.attention_scaling,
            config.max_position,
            backend.device.torch_device,
        )
        self.embedding = weights.embedding
        parts = [
            _parts(index, config, layer_weights, cos_sin)
            for index, layer_weights in enumerate(weights.layers)
        ]
        self.attention_params = [part.attention for part in parts]
        self.layers = [DecoderLayer(part, backend.ops) for part in parts]
        self._run_layers = backend.fuse_layers(parts, self._run_ops) or self._run_ops
        self.norm = weights.norm
        self.lm_head = weights.lm_head
        self._add_rms_norm = backend.ops.add_rms_norm

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> torch.Tensor:
        """Hidden states `[T, H]` after the final norm, for int64 tokens and positions `[T]`.

        Keys and values of the tokens are in the context's pool afterwards.
        """
        hidden: torch.Tensor = self.embedding.rows(token_ids)
        hidden, residual = self._run_layers(hidden, positions, context)
        hidden, _ = self._add_rms_norm(hidden, residual, self.norm, self.config.rms_norm_eps)
        return hidden

    def _run_ops(
        self, hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layers by the backend's ops: what fused layers must equal."""
        first, *others = self.layers
        hidden, residual = first(hidden, None, positions, context)
        for layer in others:
            hidden, residual = layer(hidden, residual, positions, context)
        return hidden, residual

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits `[R, V]` of hidden states `[R, H]`."""
        return self.lm_head.float32(hidden)


def _parts(
    index: int, config: DecoderConfig, weights: LayerWeights, cos_sin: torch.Tensor
) -> LayerParts:
    return LayerParts(
        index=index,
        weights=weights,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        attention=AttentionParams(scale=config.head_dim**-0.5, window=config.windows[index]),
        cos_sin=cos_sin,
    )
