"""Paged attention: what the core hands over, and what a backend implements.

T tokens and R requests in a step; Hq query heads, Hkv key-value heads, D head size. Decodes (one
query token) stand before prefill chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from windlass.backend.capabilities import SUPPORTED, GraphSupport, Support
from windlass.backend.kv_cache import SCALE_DTYPE, KVLayout, KVPool, KVSpec
from windlass.backend.ops import OpRegistry
from windlass.kernels.kv_quantization import indexable


@dataclass(kw_only=True)
class AttentionBatch:
    """One step as attention sees it. Tensors are on the device unless named `_cpu`.

    Attributes:
        cu_seqlens_q: int32 `[R+1]`, prefix sum of the query lengths.
        seq_lens: int32 `[R]`, cached plus new tokens.
        block_table: int32 `[R, max_blocks]`, row r lists the blocks of request r; unused
            entries hold a valid id (0, the null block).
        slot_mapping: the layout's `slot_dtype` `[T]`, `block * block_size + offset`; -1 marks
            padding, which must not be written.
        num_decodes: requests with exactly one query token; they come first.
        max_query_len, max_seq_len: upper bounds known to the host.
        cu_seqlens_q_cpu, seq_lens_cpu: host copies.
    """

    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    num_decodes: int
    max_query_len: int
    max_seq_len: int
    cu_seqlens_q_cpu: list[int]
    seq_lens_cpu: list[int]

    @property
    def num_requests(self) -> int:
        """R."""
        return len(self.seq_lens_cpu)


@dataclass(frozen=True, kw_only=True)
class AttentionParams:
    """What differs between layers.

    A query at position p sees the keys at positions in `(p - window, p]`; `window` 0 means all
    (so a window counts the query itself). `softcap` c turns a score s into `c * tanh(s / c)`
    (0: off). `sinks` is float32 `[Hq]`, an extra logit without a value.
    """

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm over each query and key head: weights `[D]`."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


class Attention(ABC):
    """A backend's paged attention. `Plan` is whatever the backend needs to run a step."""

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """Whether a layer with these properties, in a model of `dtype`, can run.

        By default with a cache of the model's dtype: a quantised one (`KVSpec.dtype`) is refused
        until an implementation says that it reads and writes it.
        """
        del layout, params, graph
        if spec.dtype is not dtype:
            return Support.no(f"its cache holds the model's {dtype}, not {spec.dtype}")
        return SUPPORTED

    @abstractmethod
    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Prepare a step on the host; called once per step, before any layer."""

    def plan_in_graph(self, plan: object) -> None:
        """Device work of the plan that may be captured; called once per step after `plan`."""

    @abstractmethod
    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Store `key` and `value`, both `[T, Hkv, D]`, into their slots (-1: skip).

        What a quantised cache holds is what `windlass.kernels.kv_quantization` makes of them.
        """

    def rope_and_write(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        slot_mapping: torch.Tensor,
        norm: HeadNorm | None,
        ops: OpRegistry,
    ) -> torch.Tensor:
        """Normalise heads (where there is a norm), rotate them, write keys and values.

        `query` `[T, Hq, D]`, which may be overwritten, `key` and `value` `[T, Hkv, D]`;
        `positions` and `cos_sin` as in the op `rope`. Returns the rotated query. A backend that
        can do this in one pass overrides it.
        """
        if norm is not None:
            query = ops.rms_norm(query, norm.query, norm.eps)
            key = ops.rms_norm(key, norm.key, norm.eps)
        query, key = ops.rope(query, key, positions, cos_sin)
        self.write_kv(pool, layer, key, value, slot_mapping)
        return query

    @abstractmethod
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
        """Causal attention of `query` `[T, Hq, D]` over the cache into `out` `[T, Hq, D]`.

        The step's own keys and values are already written. Slots at or beyond a sequence's length
        may hold anything, NaN included, and must not matter. `lse`, float32 `[T, Hq]`, receives
        the natural logarithm of the softmax denominator when given.
        """

    def export_blocks(self, pool: KVPool, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        """Blocks in the common form `[n, 2, block_size, Hkv, D]`, whatever the layout.

        Of a quantised cache uint8 `[n, 2, block_size, Hkv, bytes]`: a head's numbers, then its
        scale.
        """
        sides = [indexable(side[layer])[block_ids] for side in (pool.keys, pool.values)]
        blocks = torch.stack(sides, dim=1)
        if not pool.spec.has_scales:
            return blocks
        sides = [side[layer][block_ids] for side in (pool.key_scales, pool.value_scales)]
        scales = torch.stack(sides, dim=1)[..., None]
        return torch.cat((blocks.view(torch.uint8), scales.view(torch.uint8)), dim=-1)

    def import_blocks(
        self, pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor
    ) -> None:
        """Store blocks given in the common form, `[n, 2, block_size, Hkv, D]`."""
        numbers = blocks
        if pool.spec.has_scales:
            numbers = blocks[..., : pool.spec.head_dim].view(pool.spec.dtype)
            scales = blocks[..., pool.spec.head_dim :].contiguous().view(SCALE_DTYPE)[..., 0]
            pool.key_scales[layer][block_ids] = scales[:, 0]
            pool.value_scales[layer][block_ids] = scales[:, 1]
        indexable(pool.keys[layer])[block_ids] = numbers[:, 0]
        indexable(pool.values[layer])[block_ids] = numbers[:, 1]
