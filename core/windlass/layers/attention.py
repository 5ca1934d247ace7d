"""Self-attention over the paged KV cache."""

from __future__ import annotations

import torch

from windlass.backend import AttentionParams, HeadNorm, OpRegistry
from windlass.layers.context import ForwardContext
from windlass.layers.linear import Linear


class SelfAttention:
    """Projects, rotates, stores keys and values, attends, projects back: `[T, H]` to `[T, H]`.

    `qkv` yields query, key and value heads side by side; `cos_sin` is the rotary table, shared
    by all layers; `window` as in `AttentionParams`.
    """

    def __init__(
        self,
        *,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        window: int,
        qkv: Linear,
        o: Linear,
        norm: HeadNorm | None,
        cos_sin: torch.Tensor,
        ops: OpRegistry,
    ) -> None:
        self.layer = layer
        self.heads = [num_heads, num_kv_heads, num_kv_heads]
        self.head_dim = head_dim
        self.params = AttentionParams(scale=head_dim**-0.5, window=window)
        self.qkv = qkv
        self.o = o
        self.norm = norm
        self.cos_sin = cos_sin
        self._ops = ops

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> torch.Tensor:
        """Attention of tokens at int64 `positions` `[T]`."""
        num_tokens = hidden.shape[0]
        qkv = self.qkv(hidden).view(num_tokens, sum(self.heads), self.head_dim)
        query, key, value = qkv.split_with_sizes(self.heads, dim=1)
        attention, pool = context.attention, context.pool
        query = attention.rope_and_write(
            pool,
            self.layer,
            query,
            key,
            value,
            positions,
            self.cos_sin,
            context.slot_mapping,
            self.norm,
            self._ops,
        )
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        attention.run(pool, self.layer, query, context.plan, self.params, out)
        return self.o(out.view(num_tokens, -1))
