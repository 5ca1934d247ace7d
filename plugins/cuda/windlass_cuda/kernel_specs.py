"""Every kernel of the plugin with types and sizes of real models, to be compiled for any chip."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from windlass.kernels.triton import (
    activation,
    candidates,
    decode_step,
    logprobs,
    norm,
    penalties,
    sampling,
    write_kv,
)
from windlass.kernels.triton import rope as rotary
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig
from windlass_cuda import row_tuning

_OTHERS = (
    "windlass_cuda.linear:linear_kernel_specs",
    "windlass_cuda.quantized:quantized_kernel_specs",
    "windlass_cuda.experts:expert_kernel_specs",
    "windlass_cuda.attention_specs:attention_kernel_specs",
)
_FIRST_WITH_FP8 = 89
_KIB = 1024

SHARED_BYTES = {
    "sm_80": 163 * _KIB,
    "sm_86": 99 * _KIB,
    "sm_89": 99 * _KIB,
    "sm_90": 227 * _KIB,
    "sm_100": 227 * _KIB,
    "sm_120": 99 * _KIB,
}
"""Shared memory that one block may take: CUDA C++ programming guide, "Compute Capabilities"."""


def target_of(arch: str) -> tuple[str, int, int]:
    """Triton's target of an architecture such as "sm_90"."""
    return ("cuda", int(arch.removeprefix("sm_")), 32)


def has_fp8(arch: str) -> bool:
    """Whether the architecture converts to fp8 (e4m3)."""
    return target_of(arch)[1] >= _FIRST_WITH_FP8


def kernel_specs(arch: str) -> list[KernelSpec]:
    """The kernels of the whole plugin, as they are launched on `arch`."""
    specs = row_kernel_specs(arch)
    for target in _OTHERS:
        module, _, function = target.partition(":")
        specs += getattr(importlib.import_module(module), function)(arch)
    return specs


def representative_specs(arch: str) -> list[KernelSpec]:
    """Of each kernel its last use: as a rule the largest."""
    return list({id(spec.function): spec for spec in kernel_specs(arch)}.values())


def row_kernel_specs(arch: str) -> list[KernelSpec]:
    """Norms, activation, rotation, a decode step's begin and end, penalties, log-probabilities."""
    return [*_row_ops(arch), *_rotations(arch), *_sampling(arch)]


def fp8_cache_specs(arch: str) -> list[KernelSpec]:
    """Kernels that write an fp8 cache: for chips that have fp8."""
    return [_cache_writes(arch, "fp8e4nv")[0], _rotation(arch, "fp8e4nv", 128, 0, norm=True)]


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


def _row_ops(arch: str) -> Iterator[KernelSpec]:
    for size in (4096, 5120):
        config = row_tuning.norm_config(arch, size)
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
    activation_config = row_tuning.activation_config(arch)
    yield _spec(
        "silu_mul",
        activation.silu_mul_kernel,
        _Use(
            types="*bf16 *bf16 i32 i32",
            constants={"BLOCK": activation_config.block},
            config=activation_config,
        ),
    )
    penalties_config = row_tuning.penalties_config(arch)
    yield _spec(
        "penalties",
        penalties.penalties_kernel,
        _Use(
            types="*fp32 *i1 *i32 *fp32 *fp32 *fp32 *fp32 i32 i32",
            constants={"BLOCK": penalties_config.block},
            config=penalties_config,
        ),
    )


def _rotations(arch: str) -> Iterator[KernelSpec]:
    yield _rotation(arch, "bf16", 128, 0, norm=True)
    yield _rotation(arch, "bf16", 96, 48, norm=False)
    yield from _cache_writes(arch, "bf16")
    if has_fp8(arch):
        yield from fp8_cache_specs(arch)
    config = row_tuning.head_config(arch, 128, 1)
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


def _rotation(arch: str, cache: str, dim: int, tail: int, *, norm: bool) -> KernelSpec:
    config = row_tuning.head_config(arch, dim, 1)
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


def _cache_writes(arch: str, cache: str) -> list[KernelSpec]:
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
        for config in (row_tuning.head_config(arch, 128, tokens),)
    ]


def _sampling(arch: str) -> Iterator[KernelSpec]:
    step = row_tuning.step_config(arch)
    yield _spec(
        "begin_decode",
        decode_step.begin_decode_kernel,
        _Use(
            types="*i32 *i64 *i64 *i32 *i64 *i64 *i32 *i64 *i32 i32 i32 i32",
            constants={"BLOCK_SIZE": 64, "BLOCK": step.block},
            config=step,
        ),
    )
    yield from _choosing(arch)
    config = row_tuning.logprobs_config(arch)
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


def _choosing(arch: str) -> Iterator[KernelSpec]:
    config = row_tuning.sample_config(arch)
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


def inspect_kernel(kernel: Any) -> dict[str, int]:  # noqa: ANN401
    """Facts of a compiled kernel: registers a thread, spilled bytes, and matrix instructions.

    "wgmma", "mma" and "tcgen05" count the instructions of each generation. What does not fit the
    registers lies on the stack (CUDA Binary Utilities, `cuobjdump --dump-resource-usage`).
    """
    text = kernel.asm["ptx"]
    facts = {
        "wgmma": len(re.findall(r"\bwgmma\.mma_async", text)),
        "mma": len(re.findall(r"\bmma\.sync", text)),
        "tcgen05": len(re.findall(r"\btcgen05\.mma", text)),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [str(_cuobjdump()), "--dump-resource-usage", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = {name: int(re.findall(rf"\b{name}:(\d+)", usage)[-1]) for name in _USAGE}
    return {**facts, "registers": found["REG"], "spilled_bytes": found["STACK"] + found["LOCAL"]}


_USAGE = ("REG", "STACK", "LOCAL")


def _cuobjdump() -> Path:
    """The tool that comes with Triton."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
