"""Kernels of attention with types and sizes of real models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

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


class Use(NamedTuple):
    """A model of `dtype` over a cache of `kv_dtype`: heads of `head_dim` channels.

    `group` query heads share a key-value head. `everything`: with a window, a softcap, sinks and
    an lse; else without any, as most layers of most models.
    """

    dtype: torch.dtype
    kv_dtype: torch.dtype
    head_dim: int
    group: int
    everything: bool = False

    @property
    def name(self) -> str:
        """For people, different for each use."""
        kinds = _TYPES[self.kv_dtype] + " with everything" * self.everything
        return f"{self.head_dim} x {self.group} {kinds}"


def attention_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """Every kernel of attention, in uses of most models."""
    return [*_plans(tuning), *use_specs(tuning, _uses(tuning))]


def use_specs(tuning: TritonTuning, uses: Iterable[Use]) -> list[KernelSpec]:
    """Decodes, then chunks, of all `uses`."""
    uses = list(uses)
    return [*_decodes(tuning, uses), *_prefills(tuning, uses)]


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


def _uses(tuning: TritonTuning) -> Iterator[Use]:
    half = torch.bfloat16
    yield Use(half, half, 128, 4)
    yield Use(half, half, 64, 4)
    yield Use(half, half, 96, 1)
    yield Use(half, half, 128, 5)
    yield Use(torch.float32, torch.float32, 64, 2)
    for dtype in filter(tuning.supports_kv, FP8_TYPES):
        yield Use(half, dtype, 128, 4)
    yield Use(half, half, 256, 4)


def _decodes(tuning: TritonTuning, uses: Iterable[Use]) -> Iterator[KernelSpec]:
    for use in uses:
        config = tuning.decode_config(use.head_dim, use.dtype, use.kv_dtype)
        constants = decode_constants(config, **_shape(use), early=True)
        yield _spec(
            f"paged decode {use.name}", paged_decode_kernel, constants, config, _pointers(use)
        )


def _prefills(tuning: TritonTuning, uses: Iterable[Use]) -> Iterator[KernelSpec]:
    for use in uses:
        config = tuning.prefill_config(use.head_dim, use.dtype, use.group)
        constants = prefill_constants(config, **_shape(use))
        rows = config.query_rows
        expects = tuning.expects("prefill", rows) if use.dtype == torch.bfloat16 else frozenset()
        yield _spec(
            f"paged prefill {use.name}",
            paged_prefill_kernel,
            constants,
            config,
            _pointers(use),
            expects,
        )


def _shape(use: Use) -> dict[str, Any]:
    return {
        "num_kv_heads": _NUM_KV_HEADS,
        "group": use.group,
        "head_dim": use.head_dim,
        "block_size": _BLOCK_SIZE,
        "window": 4096 if use.everything else 0,
        "softcap": 50.0 if use.everything else 0.0,
    }


def _pointers(use: Use) -> dict[str, str]:
    model = dict.fromkeys(("query", "out"), f"*{_TYPES[use.dtype]}")
    cache = dict.fromkeys(("keys", "values"), f"*{_TYPES[use.kv_dtype]}")
    scratch = dict.fromkeys(("partial", "partial_lse"), "*fp32")
    extras = dict.fromkeys(("lse", "sinks"), "*fp32" if use.everything else "constexpr")
    return {**model, **cache, **scratch, **extras, "scale": "fp32"}


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
