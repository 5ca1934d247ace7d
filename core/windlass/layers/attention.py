"""Self-attention over the paged KV cache."""

from __future__ import annotations

import torch

from windlass.backend import ForwardContext, LayerParts, OpRegistry


class SelfAttention:
    """Projects, rotates, stores keys and values, attends, projects back: `[T, H]` to `[T, H]`."""

    def __init__(self, parts: LayerParts, ops: OpRegistry) -> None:
        self.layer = parts.index
        self.heads = [parts.num_heads, parts.num_kv_heads, parts.num_kv_heads]
        self.head_dim = parts.head_dim
        self.params = parts.attention
        self.qkv = parts.weights.qkv
        self.o = parts.weights.o
        self.norm = parts.weights.head_norm
        self.cos_sin = parts.cos_sin
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
