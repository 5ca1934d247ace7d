"""Sizing and reserving the KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from windlass.backend import Backend, KVLayout, KVPool, KVSpec, MemoryPolicy, size_kv_cache
from windlass.config import EngineConfig
from windlass.errors import ConfigError, UnsupportedError
from windlass.executor.profile_step import run_largest_step
from windlass.loader import LoadedModel

_SYNONYMS = {"fp8_e4m3": "fp8"}


@dataclass(frozen=True)
class KVCache:
    """A reserved pool, what its format is called, and the context length that it can hold."""

    pool: KVPool
    dtype: str
    max_model_len: int


def allocate_kv_cache(config: EngineConfig, backend: Backend, loaded: LoadedModel) -> KVCache:
    """Reserve as many blocks as memory allows, and no more than the sequences could ever fill.

    Raises:
        OutOfMemoryError: the cache cannot hold one sequence of the length that was asked for.
        UnsupportedError: the backend's attention cannot run a layer.
    """
    decoder = loaded.decoder_config
    dtype = _SYNONYMS.get(config.cache.dtype, config.cache.dtype)
    spec = KVSpec(
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        dtype=_quantized(backend).get(dtype, loaded.dtype),
    )
    layout = choose_layout(backend, spec, config.cache.block_size)
    _check_attention(backend, loaded, spec, layout)
    block_bytes = layout.block_bytes(spec, decoder.num_layers)
    num_blocks, max_model_len = size_kv_cache(
        config,
        backend.capabilities,
        max_model_len=loaded.max_model_len,
        block_size=layout.block_size,
        block_bytes=block_bytes,
        budget=lambda: _budget(
            config,
            backend,
            loaded,
            lambda: run_largest_step(config, backend, loaded, spec, layout),
        ),
    )
    buffer = backend.allocator.reserve(num_blocks * block_bytes, align=layout.align, tag="kv_cache")
    pool = KVPool.carve(buffer, spec, layout, decoder.num_layers, num_blocks)
    return KVCache(pool, dtype, max_model_len)


def _quantized(backend: Backend) -> dict[str, torch.dtype]:
    """What a cache of each name holds on this backend."""
    return {"int8": torch.int8, "fp8": backend.capabilities.fp8_dtype}


def choose_layout(backend: Backend, spec: KVSpec, block_size: int | None) -> KVLayout:
    """The backend's preferred layout, or its first one with the block size asked for."""
    layouts = backend.kv_layouts(spec)
    if block_size is None:
        return layouts[0]
    for layout in layouts:
        if layout.block_size == block_size:
            return layout
    multiple = backend.capabilities.block_multiple
    if block_size % multiple:
        raise ConfigError(
            f"block_size {block_size} is not a multiple of {multiple}, "
            f"which backend {backend.spec.name!r} needs"
        )
    if not layouts[0].canonical:
        known = ", ".join(str(layout.block_size) for layout in layouts)
        raise UnsupportedError(f"backend {backend.spec.name!r} has block sizes {known} only")
    return layouts[0].with_block_size(block_size)


def _check_attention(backend: Backend, loaded: LoadedModel, spec: KVSpec, layout: KVLayout) -> None:
    refusal = _refusal(backend, loaded, spec, layout)
    if not refusal:
        return
    plain = replace(spec, dtype=loaded.dtype)
    if spec.dtype is loaded.dtype or _refusal(backend, loaded, plain, layout):
        raise UnsupportedError(f"attention of backend {backend.spec.name!r} cannot run {refusal}")
    names = {dtype: name for name, dtype in _quantized(backend).items()}
    others = [
        name
        for dtype, name in names.items()
        if not _refusal(backend, loaded, replace(spec, dtype=dtype), layout)
    ]
    raise UnsupportedError(
        f"kv_cache_dtype {names[spec.dtype]!r} is not possible on backend {backend.spec.name!r}, "
        f"which cannot run {refusal}. It has: {', '.join(['auto', *others])}"
    )


def _refusal(backend: Backend, loaded: LoadedModel, spec: KVSpec, layout: KVLayout) -> str:
    """The first layer that attention cannot run over such a cache, and why; empty: it runs all."""
    for number, params in enumerate(loaded.decoder.attention_params):
        support = backend.attention.supports(spec, layout, loaded.dtype, params)
        if not support:
            return f"layer {number}: {support.reason}"
    return ""


def _budget(
    config: EngineConfig, backend: Backend, loaded: LoadedModel, step: Callable[[], None]
) -> int:
    share = config.cache.memory_utilization or backend.capabilities.memory_utilization
    profile = backend.allocator.measure(
        step,
        weights=loaded.weight_bytes,
        activation_estimate=_activation_bytes(config, backend, loaded),
    )
    return backend.allocator.kv_budget(profile, MemoryPolicy(utilization=share))


def _activation_bytes(config: EngineConfig, backend: Backend, loaded: LoadedModel) -> int:
    """A generous estimate: a layer's tensors for a full step, and the sampler's logits."""
    decoder, scheduler = loaded.decoder_config, config.scheduler
    per_token = 6 * decoder.hidden_size + 4 * decoder.mlp_width
    per_token += 4 * decoder.num_heads * decoder.head_dim
    tokens = scheduler.token_budget(backend.capabilities.preferred_token_budget)
    sampled = min(scheduler.max_num_seqs, tokens)
    return tokens * per_token * loaded.dtype.itemsize + sampled * decoder.vocab_size * 24
