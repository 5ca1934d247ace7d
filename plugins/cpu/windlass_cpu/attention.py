"""Paged attention by the C++ kernels, straight over the block table."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import ClassVar

import torch

from windlass.backend import (
    SUPPORTED,
    Attention,
    AttentionBatch,
    AttentionParams,
    GraphSupport,
    HeadNorm,
    KVLayout,
    KVPool,
    KVSpec,
    OpRegistry,
    Support,
)
from windlass_cpu.library import declare, load_library
from windlass_cpu.row_calls import (
    DTYPE_CODES,
    MAX_HEAD_DIM,
    CacheSide,
    CacheStrides,
    RopeCall,
    WriteCall,
    head_rows,
    row_library,
    unit_stride,
)

BLOCK_MULTIPLE = 16
"""Block sizes are multiples of this: the kernels take as many neighbouring keys at a time."""


CACHE_FORMATS = {torch.int8: 1, torch.float8_e4m3fn: 2}
"""Formats of quantised caches, in the numbers of `csrc/attention.h`; 0 is that of activations."""


class _Shape(ctypes.Structure):
    """`AttentionShape` of `csrc/attention.h`."""

    _fields_: ClassVar = [
        ("cu_seqlens_q", c_void_p),
        ("seq_lens", c_void_p),
        ("block_table", c_void_p),
        ("block_table_stride", c_int64),
        ("num_requests", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
        ("window", c_int64),
        ("keys", CacheStrides),
        ("values", CacheStrides),
        ("key_scales", CacheStrides),
        ("value_scales", CacheStrides),
        ("dtype", c_int32),
        ("cache_format", c_int32),
    ]


class AttentionCall(ctypes.Structure):
    """`AttentionCall` of `csrc/attention.h`."""

    _fields_: ClassVar = [
        ("query", c_void_p),
        ("out", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("lse", c_void_p),
        ("sinks", c_void_p),
        ("query_token_stride", c_int64),
        ("query_head_stride", c_int64),
        ("out_token_stride", c_int64),
        ("out_head_stride", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
    ]


class PoolAddresses:
    """Where each layer of a pool lies: looked up once, not at every call."""

    def __init__(self, pool: KVPool) -> None:
        self.pool = pool
        self.keys = _sides(pool.keys, pool.key_scales)
        self.values = _sides(pool.values, pool.value_scales)
        self.format = CACHE_FORMATS.get(pool.spec.dtype, 0)

    def place_rope(self, call: RopeCall, layer: int) -> None:
        """Say where the layer's keys and values go."""
        call.keys, call.values = self.keys[layer], self.values[layer]
        call.block_size, call.cache_format = self.pool.block_size, self.format

    def place_attention(self, call: AttentionCall, layer: int, params: AttentionParams) -> None:
        """Say where the layer's keys and values are, and what it does with them."""
        keys, values = self.keys[layer], self.values[layer]
        call.keys, call.key_scales = keys.numbers, keys.scales
        call.values, call.value_scales = values.numbers, values.scales
        call.sinks = None if params.sinks is None else params.sinks.data_ptr()
        call.scale, call.softcap = params.scale, params.softcap


class Plan:
    """A step's tensors, and a list of tasks for each window, made when a layer first has it."""

    def __init__(
        self, library: ctypes.CDLL, batch: AttentionBatch, addresses: PoolAddresses
    ) -> None:
        self._library = library
        # The tasks point into these tensors.
        self._tensors = (
            batch.cu_seqlens_q.contiguous(),
            batch.seq_lens.contiguous(),
            batch.block_table.contiguous(),
        )
        self._addresses = addresses
        self._tasks: dict[tuple[int, int, torch.dtype], int] = {}
        self.call = AttentionCall()

    def tasks(self, num_heads: int, window: int, dtype: torch.dtype) -> int:
        """Address of the tasks of the layers with this window."""
        tasks = self._tasks.get((num_heads, window, dtype))
        if tasks is None:
            shape = self._shape(num_heads, window, dtype)
            tasks = self._library.windlass_attention_plan(ctypes.byref(shape))
            self._tasks[num_heads, window, dtype] = tasks
        return tasks

    def _shape(self, num_heads: int, window: int, dtype: torch.dtype) -> _Shape:
        cu_seqlens_q, seq_lens, block_table = self._tensors
        pool = self._addresses.pool
        spec = pool.spec
        keys, values = self._addresses.keys[0], self._addresses.values[0]
        return _Shape(
            cu_seqlens_q=cu_seqlens_q.data_ptr(),
            seq_lens=seq_lens.data_ptr(),
            block_table=block_table.data_ptr(),
            block_table_stride=block_table.shape[1],
            num_requests=len(seq_lens),
            num_heads=num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            block_size=pool.block_size,
            window=window,
            keys=keys.strides,
            values=values.strides,
            key_scales=keys.scale_strides,
            value_scales=values.scale_strides,
            dtype=DTYPE_CODES[dtype],
            cache_format=self._addresses.format,
        )

    def __del__(self) -> None:
        for tasks in self._tasks.values():
            self._library.windlass_attention_free(tasks)


class CpuAttention(Attention):
    """Decodes share a read of keys and values among a group's heads; prefill goes tile by tile.

    Work is spread over the kernels' threads, long requests are split along their keys. `on_step` is
    called when a step is planned.
    """

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self._on_step = on_step
        self._library = _declared(load_library())
        self._last_addresses: PoolAddresses | None = None

    def addresses(self, pool: KVPool) -> PoolAddresses:
        """Where the pool's layers lie."""
        addresses = self._last_addresses
        if addresses is None or addresses.pool is not pool:
            addresses = self._last_addresses = PoolAddresses(pool)
        return addresses

    def supports(
        self,
        spec: KVSpec,
        layout: KVLayout,
        dtype: torch.dtype,
        params: AttentionParams,
        graph: GraphSupport = GraphSupport.NONE,
    ) -> Support:
        """Any layout whose channels lie side by side, blocks of whole 16 tokens; a cache of the
        model's dtype, int8 or fp8."""
        del params
        if graph is not GraphSupport.NONE:
            return Support.no("there are no graphs on a CPU")
        if dtype not in DTYPE_CODES or (
            spec.dtype is not dtype and spec.dtype not in CACHE_FORMATS
        ):
            return Support.no(
                f"{dtype} over a cache of {spec.dtype}: it must be the same float, int8 or fp8"
            )
        if not layout.canonical or layout.order[-1] != "C":
            return Support.no(f"layout {layout.order}: channels must lie side by side")
        if layout.block_size % BLOCK_MULTIPLE:
            return Support.no(f"block size {layout.block_size}: not a multiple of {BLOCK_MULTIPLE}")
        return SUPPORTED

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Keep the step; tasks are cut when a layer asks, for they depend on its window."""
        del capture
        self._on_step()
        return Plan(self._library, batch, self.addresses(pool))

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Copy each head of each token to its slot, or round it to bytes there."""
        slots = slot_numbers(slot_mapping)
        addresses = self.addresses(pool)
        for new, sides in ((key, addresses.keys), (value, addresses.values)):
            heads = unit_stride(new)
            call = WriteCall(
                heads.data_ptr(),
                *heads.stride()[:2],
                *heads.shape[1:],
                slots.data_ptr(),
                sides[layer],
                pool.block_size,
                addresses.format,
            )
            row_library().windlass_write_slots(
                ctypes.byref(call), len(heads), DTYPE_CODES[heads.dtype]
            )

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
        """One pass: the query is rotated where it lies, keys and values go to their slots."""
        if query.shape[-1] > MAX_HEAD_DIM or query.stride(-1) != 1 or key.stride(-1) != 1:
            return super().rope_and_write(
                pool, layer, query, key, value, positions, cos_sin, slot_mapping, norm, ops
            )
        value = unit_stride(value)
        positions, slots = positions.contiguous(), slot_numbers(slot_mapping)
        addresses = self.addresses(pool)
        call = RopeCall(
            head_rows(query, query, None if norm is None else norm.query),
            head_rows(key, None, None if norm is None else norm.key),
            value.data_ptr(),
            value.stride(0),
            value.stride(1),
            query.shape[-1],
            positions.data_ptr(),
            cos_sin.data_ptr(),
            cos_sin.shape[1],
            slots.data_ptr(),
            eps=0.0 if norm is None else norm.eps,
        )
        addresses.place_rope(call, layer)
        row_library().windlass_rope(ctypes.byref(call), len(query), DTYPE_CODES[query.dtype])
        return query

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
        assert isinstance(plan, Plan)
        query = unit_stride(query)
        call, addresses = plan.call, self.addresses(pool)
        call.query = query.data_ptr()
        call.out = out.data_ptr()
        call.lse = None if lse is None else lse.data_ptr()
        addresses.place_attention(call, layer, params)
        call.query_token_stride, call.query_head_stride, _ = query.stride()
        call.out_token_stride, call.out_head_stride, _ = out.stride()
        tasks = plan.tasks(query.shape[1], params.window, query.dtype)
        self._library.windlass_attention_run(tasks, ctypes.byref(call))


def _sides(layers: list[torch.Tensor], scales: list[torch.Tensor]) -> list[CacheSide]:
    """Keys or values of each layer for the kernels."""
    if not scales:
        return [
            CacheSide(view.data_ptr(), None, CacheStrides(*view.stride()[:3])) for view in layers
        ]
    return [
        CacheSide(
            view.data_ptr(),
            scale.data_ptr(),
            CacheStrides(*view.stride()[:3]),
            CacheStrides(*scale.stride()),
        )
        for view, scale in zip(layers, scales, strict=True)
    ]


def slot_numbers(slot_mapping: torch.Tensor) -> torch.Tensor:
    """Slots as the kernels read them: int64, side by side."""
    if slot_mapping.dtype is not torch.int64:
        slot_mapping = slot_mapping.long()
    return slot_mapping.contiguous()


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of the functions used here."""
    declare(library, "windlass_attention_plan", c_void_p, result=c_void_p)
    declare(library, "windlass_attention_run", c_void_p, c_void_p)
    library.windlass_attention_free.argtypes = [c_void_p]
    library.windlass_attention_free.restype = None
    return library
