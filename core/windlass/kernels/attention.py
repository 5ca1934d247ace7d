"""Paged attention in plain torch, float32 inside: slow, obvious, the oracle of every kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from windlass.kernels.kv_quantization import take_blocks


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    cu_seqlens_q: Sequence[int],
    seq_lens: Sequence[int],
    block_table: torch.Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention over a paged cache: (`[T, Hq, D]` in the query's dtype, lse `[T, Hq]`).

    `query` `[T, Hq, D]`; `keys` and `values` `[B, N, Hkv, D]`, of int8 with scales `[B, N, Hkv]`;
    `block_table` int32 `[R, M]`.
    Meaning of window, softcap and sinks: `windlass.backend.AttentionParams`.
    """
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
    for r, seq_len in enumerate(seq_lens):
        tokens = slice(cu_seqlens_q[r], cu_seqlens_q[r + 1])
        blocks = block_table[r, : -(-seq_len // keys.shape[1])].long()
        k = take_blocks(keys, key_scales, blocks, torch.float32).flatten(0, 1)[:seq_len]
        v = take_blocks(values, value_scales, blocks, torch.float32).flatten(0, 1)[:seq_len]
        result, lse[tokens] = attend(query[tokens].float(), k, v, scale, window, softcap, sinks)
        out[tokens] = result.to(out.dtype)
    return out, lse


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence: the last Q of S tokens attend to all S. (`[Q, Hq, D]`, lse `[Q, Hq]`).

    `query` `[Q, Hq, D]`, `key` and `value` `[S, Hkv, D]`; the arithmetic is done in their dtype.
    """
    num_queries, num_heads, head_dim = query.shape
    seq_len, num_kv_heads, _ = key.shape
    grouped = query.view(num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.einsum("qhgd,shd->hgqs", grouped, key).float() * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible(num_queries, seq_len, window, key.device), -torch.inf)
    scores = scores.reshape(num_heads, num_queries, seq_len)
    lse = torch.logsumexp(scores, dim=-1)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks[:, None])
    weights = torch.exp(scores - lse[..., None]).to(value.dtype)
    weights = weights.view(num_kv_heads, -1, num_queries, seq_len)
    out = torch.einsum("hgqs,shd->qhgd", weights, value)
    return out.reshape(num_queries, num_heads, head_dim), lse.transpose(0, 1)


def visible(num_queries: int, seq_len: int, window: int, device: torch.device) -> torch.Tensor:
    """Which keys each of the last `num_queries` tokens sees: bool `[Q, S]`."""
    query_position = torch.arange(seq_len - num_queries, seq_len, device=device)[:, None]
    key_position = torch.arange(seq_len, device=device)[None, :]
    seen = key_position <= query_position
    return seen & (key_position > query_position - window) if window else seen
