"""Paged attention of a backend by Triton's kernels, and by providers for long prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch

from windlass.backend.attention import Attention, AttentionBatch, AttentionParams, HeadNorm
from windlass.backend.capabilities import SUPPORTED, GraphSupport, Support
from windlass.backend.kv_cache import KVLayout, KVPool, KVSpec
from windlass.backend.ops import OpRegistry
from windlass.backend.triton.prefill_providers import Chunks, PrefillProvider, upload
from windlass.backend.triton.tuning import TritonTuning, remembered_head_config
from windlass.kernels.triton.decode_plan import DecodePlan, DecodeScratch, plan_decode
from windlass.kernels.triton.paged_decode import paged_decode
from windlass.kernels.triton.paged_prefill import list_query_tiles, paged_prefill
from windlass.kernels.triton.rope import rope_and_write
from windlass.kernels.triton.write_kv import write_kv

logger = logging.getLogger(__name__)

MODEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_MAX_HEAD_DIM = 256


@dataclass(kw_only=True)
class _ChunkGroup(Chunks):
    """Chunks with the providers to try, best first, and what Triton's kernel wants to know."""

    providers: list[PrefillProvider]
    query_tiles: torch.Tensor | None = None


@dataclass(kw_only=True)
class _Plan:
    """A step: its decodes, cut up for each window that a layer has, and its chunks."""

    batch: AttentionBatch
    chunks: list[_ChunkGroup]
    decodes: dict[int, DecodePlan] = field(default_factory=dict)
    scratch: DecodeScratch | None = None


class TritonAttention(Attention):
    """Decodes and chunks in Triton's kernels; chunks for which the tuning has a rule elsewhere.

    `providers` are those that the tuning's rules may name, as far as they are installed.
    """

    def __init__(
        self, tuning: TritonTuning, providers: Mapping[str, PrefillProvider] | None = None
    ) -> None:
        self._tuning = tuning
        self._providers = dict(providers or {})
        self._decode_config = cache(tuning.decode_config)
        self._prefill_config = cache(tuning.prefill_config)
        self._head_config = remembered_head_config(tuning)
        self._gather_config = tuning.gather_config()

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """A cache of the model's dtype, or of another that the chip has; decodes in graphs."""
        del params
        if dtype not in MODEL_DTYPES:
            return Support.no(f"the model's dtype must be one of {MODEL_DTYPES}, not {dtype}")
        if spec.head_dim > _MAX_HEAD_DIM:
            return Support.no(f"heads have at most {_MAX_HEAD_DIM} channels, not {spec.head_dim}")
        if layout.order[-1] != "C":
            return Support.no("the channels of a head must lie side by side")
        if graph is GraphSupport.MIXED:
            return Support.no("only steps of decodes can be captured")
        return SUPPORTED if spec.dtype == dtype else self._tuning.supports_kv(spec.dtype)

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Say who takes which chunk. Lengths on the device are not read."""
        if capture and batch.num_decodes < batch.num_requests:
            raise ValueError("only steps of decodes can be captured")
        return _Plan(batch=batch, chunks=self._chunks(batch, pool.spec.head_dim))

    def plan_in_graph(self, plan: object) -> None:
        """Forget how decodes were cut up: the first layer with a window does it again."""
        assert isinstance(plan, _Plan)
        plan.decodes.clear()

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """One launch."""
        config = self._head_config(key.shape[2], len(key))
        write_kv(key, value, pool.keys[layer], pool.values[layer], slot_mapping, config)

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
        """One launch; overwrites `query`."""
        del ops
        return rope_and_write(
            query,
            key,
            value,
            positions,
            cos_sin,
            pool.keys[layer],
            pool.values[layer],
            slot_mapping,
            norm,
            self._head_config(key.shape[2], len(key)),
        )

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
        """A launch for the decodes, one or more for each group of chunks."""
        assert isinstance(plan, _Plan)
        keys, values = pool.keys[layer], pool.values[layer]
        if plan.batch.num_decodes and not self.decoded_elsewhere(
            pool, layer, query, plan.batch, params, out, lse
        ):
            self._decode(pool.spec, query, keys, values, plan, params, out, lse)
        for group in plan.chunks:
            if lse is not None or not self._provided(query, keys, values, group, params, out):
                self._prefill(pool.spec, query, keys, values, group, params, out, lse)

    def decoded_elsewhere(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        batch: AttentionBatch,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> bool:
        """Whether the batch's decodes were run by what a plugin has beside these kernels."""
        del pool, layer, query, batch, params, out, lse
        return False

    def _decode(
        self,
        spec: KVSpec,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        plan: _Plan,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> None:
        num_kv_heads, head_dim = spec.num_kv_heads, spec.head_dim
        decodes = plan.decodes.get(params.window)
        planned_before = decodes is not None
        if decodes is None:
            batch = plan.batch
            decodes = plan.decodes[params.window] = plan_decode(
                batch.seq_lens[: batch.num_decodes],
                batch.block_table[: batch.num_decodes],
                num_kv_heads,
                self._tuning.units,
                batch.max_seq_len,
                params.window,
                self._decode_config(head_dim, query.dtype, keys.dtype),
            )
        if plan.scratch is None or len(plan.scratch.partial) < 2 * decodes.num_programs:
            plan.scratch = DecodeScratch.allocate(
                decodes.num_programs, query.shape[1] // num_kv_heads, head_dim, query.device
            )
        paged_decode(
            query,
            keys,
            values,
            out,
            lse,
            decodes,
            plan.scratch,
            scale=params.scale,
            softcap=params.softcap,
            sinks=params.sinks,
            early=planned_before,
        )

    def _provided(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        group: _ChunkGroup,
        params: AttentionParams,
        out: torch.Tensor,
    ) -> bool:
        """Whether a provider took the chunks; one that fails is not asked again."""
        for provider in group.providers:
            if provider.name not in self._providers or not provider.supports(
                query.dtype, keys.shape[3], params
            ):
                continue
            try:
                provider.run(query, keys, values, group, params, out, self._gather_config)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as exc:
                logger.warning("attention by %s is off from now on: %s", provider.name, exc)
                del self._providers[provider.name]
                continue
            return True
        return False

    def _prefill(
        self,
        spec: KVSpec,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        group: _ChunkGroup,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> None:
        num_kv_heads, head_dim = spec.num_kv_heads, spec.head_dim
        heads = query.shape[1] // num_kv_heads
        config = self._prefill_config(head_dim, query.dtype, heads)
        if group.query_tiles is None:
            rows = range(group.first_row, group.end_row)
            tiles = list_query_tiles(rows, group.query_lens, group.seq_lens, heads, config)
            group.query_tiles = upload(tiles, query.device)
        paged_prefill(
            query,
            keys,
            values,
            out,
            lse,
            group.query_tiles,
            group.batch.cu_seqlens_q,
            group.batch.seq_lens,
            group.batch.block_table,
            config,
            scale=params.scale,
            window=params.window,
            softcap=params.softcap,
            sinks=params.sinks,
        )

    def _chunks(self, batch: AttentionBatch, head_dim: int) -> list[_ChunkGroup]:
        """The step's chunks, neighbours with the same providers together."""
        groups: list[_ChunkGroup] = []
        cu_seqlens = batch.cu_seqlens_q_cpu
        for row in range(batch.num_decodes, batch.num_requests):
            names = self._tuning.prefill_providers(
                head_dim, cu_seqlens[row + 1] - cu_seqlens[row], batch.seq_lens_cpu[row]
            )
            providers = [self._providers[name] for name in names if name in self._providers]
            if groups and groups[-1].providers == providers:
                groups[-1].end_row = row + 1
            else:
                groups.append(
                    _ChunkGroup(batch=batch, first_row=row, end_row=row + 1, providers=providers)
                )
        return groups
