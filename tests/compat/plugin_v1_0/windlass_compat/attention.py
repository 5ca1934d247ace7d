"""Paged attention, one request after the other, in float32."""

from __future__ import annotations

import torch

from windlass.backend import Attention, AttentionBatch, AttentionParams, KVPool


class CompatAttention(Attention):
    """Reads a request's blocks in order, then multiplies; its plan is the batch."""

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Nothing is prepared."""
        del pool, capture
        return batch

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Store `key` and `value` `[T, Hkv, D]`; padding (-1) is left out."""
        written = slot_mapping >= 0
        slots = slot_mapping[written].long()
        blocks, offsets = slots // pool.block_size, slots % pool.block_size
        pool.keys[layer][blocks, offsets] = key[written]
        pool.values[layer][blocks, offsets] = value[written]

    def run(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        plan: object,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None = None,
    ) -> None:
        """Attention of `query` `[T, Hq, D]` into `out` `[T, Hq, D]`, `lse` `[T, Hq]`."""
        assert isinstance(plan, AttentionBatch)
        for request in range(plan.num_requests):
            tokens = slice(plan.cu_seqlens_q_cpu[request], plan.cu_seqlens_q_cpu[request + 1])
            length = plan.seq_lens_cpu[request]
            blocks = plan.block_table[request, : -(-length // pool.block_size)].long()
            key, value = (
                side[layer][blocks].flatten(0, 1)[:length] for side in (pool.keys, pool.values)
            )
            result, logarithm = _attend(query[tokens], key, value, params)
            out[tokens] = result.to(out.dtype)
            if lse is not None:
                lse[tokens] = logarithm


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, params: AttentionParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries `[Q, Hq, D]`, the last of a sequence, over all its `key` and `value` `[S, Hkv, D]`.

    Returns float32 `[Q, Hq, D]`, and the logarithm of the denominator `[Q, Hq]`.
    """
    group = query.shape[1] // key.shape[1]
    wide_key = key.float().repeat_interleave(group, dim=1)
    wide_value = value.float().repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,shd->qhs", query.float(), wide_key) * params.scale
    if params.softcap:
        scores = params.softcap * torch.tanh(scores / params.softcap)
    at = torch.arange(len(key) - len(query), len(key), device=query.device)[:, None]
    seen = torch.arange(len(key), device=query.device)[None, :]
    hidden = seen > at
    if params.window:
        hidden = hidden | (seen <= at - params.window)
    scores = scores.masked_fill(hidden[:, None, :], -torch.inf)
    logarithm = torch.logsumexp(scores, dim=-1)
    if params.sinks is not None:
        logarithm = torch.logaddexp(logarithm, params.sinks)
    weights = torch.exp(scores - logarithm[..., None])
    return torch.einsum("qhs,shd->qhd", weights, wide_value), logarithm
