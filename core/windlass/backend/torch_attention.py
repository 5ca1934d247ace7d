"""Paged attention in torch operations, batched: what every backend starts with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from windlass.backend.attention import Attention, AttentionBatch, AttentionParams
from windlass.backend.capabilities import SUPPORTED, GraphSupport, Support
from windlass.backend.kv_cache import KVLayout, KVPool, KVSpec
from windlass.kernels.attention import attend, visible
from windlass.kernels.kv_quantization import FP8_LARGEST, indexable, quantize_kv, take_blocks

_GATHER_BYTES = 128 << 20
_SCORE_NUMBERS = 16 << 20


@dataclass(slots=True)
class _Decode:
    """Requests `rows` with one query token each: their blocks, and which keys they may see."""

    rows: slice
    blocks: torch.Tensor
    seq_lens: torch.Tensor


@dataclass(slots=True)
class _Prefill:
    """One request with a chunk of query tokens."""

    tokens: slice
    blocks: torch.Tensor
    seq_len: int


@dataclass(slots=True)
class _Plan:
    decodes: list[_Decode]
    prefills: list[_Prefill]


class TorchAttention(Attention):
    """Gathers blocks, then multiplies: decodes together, prefill chunks one request at a time."""

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """Everything, over a cache of the model's dtype, int8 or fp8."""
        if spec.dtype == torch.int8 or spec.dtype in FP8_LARGEST:
            return SUPPORTED
        return super().supports(spec, layout, dtype, params, graph)

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Cut the step so that no gather and no score matrix grows without bound."""
        del capture
        return _Plan(_decodes(batch, pool), _prefills(batch, pool))

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Scatter by slot; padding goes to slot 0, in the null block that nobody relies on."""
        slots = slot_mapping.clamp(min=0).long()
        blocks, offsets = slots // pool.block_size, slots % pool.block_size
        for new, cache, cache_scales in (
            (key, pool.keys, pool.key_scales),
            (value, pool.values, pool.value_scales),
        ):
            stored, scales = quantize_kv(new, pool.spec.dtype)
            indexable(cache[layer])[blocks, offsets] = indexable(stored)
            if scales is not None:
                cache_scales[layer][blocks, offsets] = scales

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
        """Attention of the step's queries over the cache."""
        assert isinstance(plan, _Plan)
        for decode in plan.decodes:
            _run_decode(pool, layer, query, decode, params, out, lse)
        for prefill in plan.prefills:
            _run_prefill(pool, layer, query, prefill, params, out, lse)


def _decodes(batch: AttentionBatch, pool: KVPool) -> list[_Decode]:
    """Groups of decodes whose gathered keys stay under a bound."""
    count = batch.num_decodes
    if not count:
        return []
    longest = max(batch.seq_lens_cpu[:count])
    num_blocks = -(-longest // pool.block_size)
    spec = pool.spec
    # A quantised cache is widened to float32 on the way.
    itemsize = 4 if spec.dtype.itemsize == 1 else spec.dtype.itemsize
    block_bytes = pool.block_size * spec.num_kv_heads * spec.head_dim * itemsize
    group = max(1, _GATHER_BYTES // (num_blocks * block_bytes))
    decodes = []
    for start in range(0, count, group):
        rows = slice(start, min(start + group, count))
        longest = max(batch.seq_lens_cpu[rows])
        blocks = batch.block_table[rows, : -(-longest // pool.block_size)]
        decodes.append(_Decode(rows, blocks, batch.seq_lens[rows]))
    return decodes


def _prefills(batch: AttentionBatch, pool: KVPool) -> list[_Prefill]:
    prefills = []
    for r in range(batch.num_decodes, batch.num_requests):
        seq_len = batch.seq_lens_cpu[r]
        tokens = slice(batch.cu_seqlens_q_cpu[r], batch.cu_seqlens_q_cpu[r + 1])
        blocks = batch.block_table[r, : -(-seq_len // pool.block_size)].long()
        prefills.append(_Prefill(tokens, blocks, seq_len))
    return prefills


def _gather(
    cache: torch.Tensor, scales: torch.Tensor | None, blocks: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Blocks `[R, M]` of a `[B, N, H, C]` cache as `[R, H, M * N, C]`."""
    rows, count = blocks.shape
    _, size, heads, channels = cache.shape
    by_head = None if scales is None else scales.transpose(1, 2)
    picked = take_blocks(cache.transpose(1, 2), by_head, blocks.flatten(), dtype)
    picked = picked.view(rows, count, heads, size, channels).transpose(1, 2)
    return picked.reshape(rows, heads, count * size, channels)


def _scales(scales: list[torch.Tensor], layer: int) -> torch.Tensor | None:
    return scales[layer] if scales else None


def _run_decode(
    pool: KVPool,
    layer: int,
    query: torch.Tensor,
    decode: _Decode,
    params: AttentionParams,
    out: torch.Tensor,
    lse: torch.Tensor | None,
) -> None:
    """A whole group of query heads multiplies with its key head at once."""
    q = query[decode.rows]
    key = _gather(pool.keys[layer], _scales(pool.key_scales, layer), decode.blocks, q.dtype)
    rows, num_heads, head_dim = q.shape
    num_kv_heads, seq_len = key.shape[1], key.shape[2]
    grouped = q.view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.matmul(grouped, key.transpose(2, 3)).float() * params.scale
    if params.softcap:
        scores = params.softcap * torch.tanh(scores / params.softcap)
    position = torch.arange(seq_len, device=q.device)
    length = decode.seq_lens[:, None]
    hidden = position >= length
    if params.window:
        hidden |= position < length - params.window
    scores = scores.masked_fill_(hidden[:, None, None, :], -torch.inf).view(rows, num_heads, -1)
    if params.sinks is None and lse is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        denominator = torch.logsumexp(scores, dim=-1)
        if params.sinks is not None:
            denominator = torch.logaddexp(denominator, params.sinks)
        if lse is not None:
            lse[decode.rows] = denominator
        weights = torch.exp(scores - denominator[..., None])
    weights = weights.to(q.dtype).view(rows, num_kv_heads, -1, seq_len)
    value = _gather(pool.values[layer], _scales(pool.value_scales, layer), decode.blocks, q.dtype)
    value.masked_fill_(hidden[:, None, :, None], 0)  # a stale NaN times a weight of 0 is NaN
    out[decode.rows] = torch.matmul(weights, value).view(rows, num_heads, head_dim)


def _run_prefill(
    pool: KVPool,
    layer: int,
    query: torch.Tensor,
    prefill: _Prefill,
    params: AttentionParams,
    out: torch.Tensor,
    lse: torch.Tensor | None,
) -> None:
    """torch's fused attention where it can express the layer, tiles of queries where not."""
    q = query[prefill.tokens]
    key, value = (
        take_blocks(cache[layer], _scales(scales, layer), prefill.blocks, q.dtype).flatten(0, 1)[
            : prefill.seq_len
        ]
        for cache, scales in ((pool.keys, pool.key_scales), (pool.values, pool.value_scales))
    )
    if lse is None and params.sinks is None and not params.softcap:
        mask = visible(len(q), prefill.seq_len, params.window, q.device)
        out[prefill.tokens] = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            key.transpose(0, 1)[None],
            value.transpose(0, 1)[None],
            attn_mask=mask,
            scale=params.scale,
            enable_gqa=True,
        )[0].transpose(0, 1)
        return
    tile = max(1, _SCORE_NUMBERS // (q.shape[1] * prefill.seq_len))
    first = prefill.seq_len - len(q)
    for start in range(0, len(q), tile):
        part = q[start : start + tile]
        end = first + start + len(part)
        tokens = slice(prefill.tokens.start + start, prefill.tokens.start + start + len(part))
        result, denominator = attend(
            part, key[:end], value[:end], params.scale, params.window, params.softcap, params.sinks
        )
        out[tokens] = result.to(out.dtype)
        if lse is not None:
            lse[tokens] = denominator
