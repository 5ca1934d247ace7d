"""Kernels of attention with types and sizes of real models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from windlass.backend.triton.row_specs import FP8_TYPES
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.attention_tile import padded_channels
from windlass.kernels.triton.decode_plan import plan_decode_kernel
from windlass.kernels.triton.gather_kv import gather_kv_kernel
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig
from windlass.kernels.triton.paged_decode import decode_constants, paged_decode_kernel
from windlass.kernels.triton.paged_prefill import paged_prefill_kernel, prefill_constants

_NUM_KV_HEADS = 8
_BLOCK_SIZE = 64
_TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", **FP8_TYPES}


def attention_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """Every entry of the tuning's tables for attention."""
    return [*_plans(tuning), *_decodes(tuning), *_prefills(tuning)]


def _plans(tuning: TritonTuning) -> Iterator[KernelSpec]:
    config = tuning.decode_config(128, torch.bfloat16, torch.bfloat16)
    constants = {
        "num_kv_heads": _NUM_KV_HEADS,
        "minimum_run": config.minimum_run,
        "window": 0,
        "tile": config.tile,
        "padded_rows": 256,
        "wait": config.wait,
        "release": config.release,
    }
    yield _spec("plan decodes", plan_decode_kernel, constants, config, {})
    gather = tuning.gather_config()
    constants = {
        "num_kv_heads": _NUM_KV_HEADS,
        "head_dim": 128,
        "channels": padded_channels(128),
        "tile": 64,
        "block_size": _BLOCK_SIZE,
        "wait": gather.wait,
        "release": gather.release,
    }
    names = ("keys", "values", "gathered_keys", "gathered_values")
    types = dict.fromkeys(names, "*bf16")
    yield _spec("gather keys and values", gather_kv_kernel, constants, gather, types)


def _uses(tuning: TritonTuning) -> Iterator[tuple[torch.dtype, torch.dtype, int, int]]:
    """Dtypes of model and cache, channels of a head, query heads to a key-value head."""
    half = torch.bfloat16
    yield half, half, 128, 4
    yield half, half, 64, 4
    yield half, half, 96, 1
    yield half, half, 128, 5
    yield torch.float32, torch.float32, 64, 2
    for dtype in filter(tuning.supports_kv, FP8_TYPES):
        yield half, dtype, 128, 4
    yield half, half, 256, 4


def _decodes(tuning: TritonTuning) -> Iterator[KernelSpec]:
    for dtype, kv_dtype, head_dim, group in _uses(tuning):
        config = tuning.decode_config(head_dim, dtype, kv_dtype)
        constants = decode_constants(config, **_shape(head_dim, group), early=True)
        name = f"paged decode {head_dim} x {group} {_TYPES[kv_dtype]}"
        yield _spec(
            name, paged_decode_kernel, constants, config, _pointers(dtype, kv_dtype), frozenset()
        )


def _prefills(tuning: TritonTuning) -> Iterator[KernelSpec]:
    for dtype, kv_dtype, head_dim, group in _uses(tuning):
        config = tuning.prefill_config(head_dim, dtype, group)
        constants = prefill_constants(config, **_shape(head_dim, group))
        name = f"paged prefill {head_dim} x {group} {_TYPES[kv_dtype]}"
        rows = config.query_rows
        expects = tuning.expects("prefill", rows) if dtype == torch.bfloat16 else frozenset()
        pointers = _pointers(dtype, kv_dtype)
        yield _spec(name, paged_prefill_kernel, constants, config, pointers, expects)


def _shape(head_dim: int, group: int) -> dict[str, Any]:
    return {
        "num_kv_heads": _NUM_KV_HEADS,
        "group": group,
        "head_dim": head_dim,
        "block_size": _BLOCK_SIZE,
        "window": 0,
        "softcap": 0.0,
    }


def _pointers(dtype: torch.dtype, kv_dtype: torch.dtype) -> dict[str, str]:
    model = dict.fromkeys(("query", "out"), f"*{_TYPES[dtype]}")
    cache = dict.fromkeys(("keys", "values"), f"*{_TYPES[kv_dtype]}")
    scratch = dict.fromkeys(("partial", "partial_lse"), "*fp32")
    # No lse, no sinks: as most layers of most models.
    return {**model, **cache, **scratch, "scale": "fp32", "lse": "constexpr", "sinks": "constexpr"}


def _spec(
    name: str,
    function: Any,  # noqa: ANN401
    constants: Mapping[str, object],
    config: LaunchConfig,
    types: Mapping[str, str],
    expects: frozenset[str] = frozenset(),
) -> KernelSpec:
    """Arguments without a type of their own are strides, counts, or tensors of int32."""
    signature = {}
    for argument in function.arg_names:
        integer = argument.endswith("_stride") or argument == "num_rows"
        default = "constexpr" if argument in constants else "i32" if integer else "*i32"
        signature[argument] = types.get(argument, default)
    absent = {argument: None for argument, kind in types.items() if kind == "constexpr"}
    return KernelSpec(
        name=name,
        function=function,
        signature=signature,
        constants={**constants, **absent},
        config=config,
        divisible=frozenset(name for name in signature if name.endswith("_stride")),
        expects=expects,
    )
