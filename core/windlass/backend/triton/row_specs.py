"""Kernels of norms, activation, rotation, cache writes, sampling: each with real sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton

from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton import (
    activation,
    candidates,
    decode_step,
    logprobs,
    norm,
    penalties,
    sampling,
    token_mask,
    write_kv,
)
from windlass.kernels.triton import rope as rotary
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig

FP8_TYPES = {torch.float8_e4m3fn: "fp8e4nv", torch.float8_e4m3fnuz: "fp8e4b8"}
"""Triton's names of the formats of an fp8 cache."""


def row_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """Norms, activation, rotation, a decode step's begin and end, and what sampling needs."""
    return [*_row_ops(tuning), *_rotations(tuning), *_sampling(tuning)]


def fp8_cache_specs(tuning: TritonTuning, dtype: torch.dtype) -> list[KernelSpec]:
    """Kernels that write an fp8 cache of `dtype`, whether the chip has that format or not."""
    name = FP8_TYPES[dtype]
    return [_cache_writes(tuning, name)[0], _rotation(tuning, name, 128, 0, norm=True)]


@dataclass(frozen=True, kw_only=True)
class _Use:
    """One use of a kernel: Triton types of its arguments in order, and its constants."""

    types: str
    constants: Mapping[str, object]
    config: LaunchConfig


def _spec(name: str, function: Any, use: _Use) -> KernelSpec:  # noqa: ANN401
    """A spec in which every integer that is not a row's count is a multiple of 16."""
    constants = {**use.constants, "wait": use.config.wait, "release": use.config.release}
    free = [argument for argument in function.arg_names if argument not in constants]
    types = dict(zip(free, use.types.split(), strict=True))
    return KernelSpec(
        name=name,
        function=function,
        signature={**types, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        config=use.config,
        divisible=frozenset(argument for argument in free if types[argument] == "i32"),
    )


def _row_ops(tuning: TritonTuning) -> Iterator[KernelSpec]:
    for size in (4096, 5120):
        config = tuning.norm_config(size)
        constants = {"SIZE": size, "BLOCK": triton.next_power_of_2(size)}
        yield _spec(
            f"rms_norm {size}",
            norm.rms_norm_kernel,
            _Use(types="*bf16 *bf16 *bf16 fp32 i32", constants=constants, config=config),
        )
        yield _spec(
            f"add_rms_norm {size}",
            norm.add_rms_norm_kernel,
            _Use(
                types="*bf16 *bf16 *bf16 *bf16 *bf16 fp32 i32 i32",
                constants=constants,
                config=config,
            ),
        )
    activation_config = tuning.activation_config()
    yield _spec(
        "silu_mul",
        activation.silu_mul_kernel,
        _Use(
            types="*bf16 *bf16 i32 i32",
            constants={"BLOCK": activation_config.block},
            config=activation_config,
        ),
    )
    vocabulary_config = tuning.vocabulary_config()
    yield _spec(
        "penalties",
        penalties.penalties_kernel,
        _Use(
            types="*fp32 *i1 *i32 *fp32 *fp32 *fp32 *fp32 i32 i32",
            constants={"BLOCK": vocabulary_config.block},
            config=vocabulary_config,
        ),
    )
    yield _spec(
        "apply_token_mask",
        token_mask.token_mask_kernel,
        _Use(
            types="*fp32 *i32 *fp32 i32 i32 i32",
            constants={"BLOCK": vocabulary_config.block},
            config=vocabulary_config,
        ),
    )


def _rotations(tuning: TritonTuning) -> Iterator[KernelSpec]:
    yield _rotation(tuning, "bf16", 128, 0, norm=True)
    yield _rotation(tuning, "bf16", 96, 48, norm=False)
    yield from _cache_writes(tuning, "bf16")
    for dtype in filter(tuning.supports_kv, FP8_TYPES):
        yield from fp8_cache_specs(tuning, dtype)
    config = tuning.head_config(128, 1)
    yield _spec(
        "rope",
        rotary.rope_kernel,
        _Use(
            types="*bf16 *bf16 *bf16 *bf16 *i64 *fp32 i32 i32 i32",
            constants={
                "NUM_HEADS": 32,
                "NUM_KV_HEADS": 8,
                **_halves(128, 0),
                "HEADS": config.heads,
            },
            config=config,
        ),
    )


def _halves(dim: int, tail: int) -> dict[str, object]:
    half = (dim - tail) // 2
    return {
        "HALF": half,
        "HALF_BLOCK": triton.next_power_of_2(half),
        "TAIL": tail,
        "TAIL_BLOCK": triton.next_power_of_2(max(tail, 1)),
    }


def _rotation(tuning: TritonTuning, cache: str, dim: int, tail: int, *, norm: bool) -> KernelSpec:
    config = tuning.head_config(dim, 1)
    return _spec(
        f"rope_and_write {dim} {cache}",
        rotary.rope_and_write_kernel,
        _Use(
            types=f"*bf16 *bf16 *bf16 *i64 *fp32 *{cache} *{cache} *i64 *bf16 *bf16 fp32"
            + 7 * " i32",
            constants={
                "NUM_HEADS": 32,
                "NUM_KV_HEADS": 8,
                "BLOCK_SIZE": 64,
                **_halves(dim, tail),
                "DIM_BLOCK": triton.next_power_of_2(dim),
                "NORM": norm,
                "HEADS": config.heads,
            },
            config=config,
        ),
    )


def _cache_writes(tuning: TritonTuning, cache: str) -> list[KernelSpec]:
    return [
        _spec(
            f"write_kv {cache} {tokens}",
            write_kv.write_kv_kernel,
            _Use(
                types=f"*bf16 *bf16 *{cache} *{cache} *i64" + 6 * " i32",
                constants={
                    "NUM_KV_HEADS": 8,
                    "BLOCK_SIZE": 64,
                    "DIM": 128,
                    "DIM_BLOCK": 128,
                    "HEADS": config.heads,
                },
                config=config,
            ),
        )
        for tokens in (1, 8192)
        for config in (tuning.head_config(128, tokens),)
    ]


def _sampling(tuning: TritonTuning) -> Iterator[KernelSpec]:
    step = tuning.step_config()
    yield _spec(
        "begin_decode",
        decode_step.begin_decode_kernel,
        _Use(
            types="*i32 *i64 *i64 *i32 *i64 *i64 *i32 *i64 *i32 i32 i32 i32",
            constants={"BLOCK_SIZE": 64, "BLOCK": step.block},
            config=step,
        ),
    )
    yield from _choosing(tuning)
    config = tuning.logprobs_config()
    splits = triton.cdiv(151936, config.block)
    yield _spec(
        "logprob_partials",
        logprobs.logprob_partials_kernel,
        _Use(
            types="*fp32 *i64 *fp64 *fp32 *i32 i32 i32 i32",
            constants={"NUM_TOP": 20, "SPLITS": splits, "BLOCK": config.block},
            config=config,
        ),
    )
    yield _spec(
        "join_logprobs",
        logprobs.join_logprobs_kernel,
        _Use(
            types="*fp32 *i64 *fp64 *fp32 *i32 *fp32 *i64 *i64 *fp32 i32 i32 i32",
            constants={
                "NUM_TOP": 20,
                "TOP_BLOCK": 32,
                "SPLITS": splits,
                "CHUNKS": triton.next_power_of_2(splits),
            },
            config=config,
        ),
    )


def _choosing(tuning: TritonTuning) -> Iterator[KernelSpec]:
    config = tuning.sample_config()
    joined = LaunchConfig(
        num_warps=config.choose_warps,
        options=config.options,
        wait=config.wait,
        release=config.release,
    )
    splits = triton.cdiv(151936, config.block)
    sizes = {
        "SPLITS": splits,
        "BLOCK": config.block,
        "GROUP": config.group,
        "KEPT": config.kept,
        "INDEXED": True,
    }
    chunks = {"CHUNKS": triton.next_power_of_2(splits)}
    filters = {"HAS_TOP_K": True, "HAS_TOP_P": True, "HAS_MIN_P": True}
    integers = " i32 i32 i32"
    for random in (True, False):
        constants = {**sizes, "RANDOM": random, "INDEXED": random, "HAS_TOP_K": random}
        yield _spec(
            f"partials {random}",
            candidates.partials_kernel,
            _Use(
                types="*fp32 *i32 *fp32 *i32 *fp64 *fp32" + integers,
                constants=constants,
                config=config,
            ),
        )
    yield _spec(
        "candidates",
        candidates.candidates_kernel,
        _Use(
            types="*fp32 *i32 *fp32 *i32 *fp32 *fp32 *fp64 *fp32" + integers,
            constants={**sizes, **chunks, **filters},
            config=joined,
        ),
    )
    for filtered in (True, False):
        constants = {**sizes, **chunks, **dict.fromkeys(filters, filtered), "RANDOM": True}
        yield _spec(
            f"choose {filtered}",
            sampling.choose_kernel,
            _Use(
                types="*fp32 *i32 *fp32 *i32 *fp32 *fp32 *i64 *i64 *fp64 *fp32 *i64 *fp32 *i1 *i64"
                + integers,
                constants=constants,
                config=joined,
            ),
        )
