"""Kernels of dense linear layers with sizes of real models."""

from __future__ import annotations

from typing import Any

from windlass.backend.triton.linear_tiles import padded_rows
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.fused_linear import LinearConfig, fused_linear_kernel
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.skinny_linear import skinny_linear_kernel


def linear_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """The kernels with the tiles that they get for the layers of two models."""
    specs = {}
    for outputs, inputs in ((4096, 1024), (4096, 14336), (28672, 4096)):
        for rows in (1, 4, 16, 64):
            config = tuning.linear_config(rows, outputs, inputs)
            if config is not None:
                spec = _linear_spec(tuning, config, outputs, inputs)
                specs[spec.name] = spec
    for outputs, inputs, gated, rows in (
        (4096, 1024, False, 1),
        (3072, 1024, True, 1),
        (3072, 1024, True, 4),
        (14336, 4096, True, 2),
    ):
        config = tuning.fused_config(rows, outputs, inputs, gated=gated)
        if config is not None:
            spec = _fused_spec(config, outputs, inputs, norm=True, gated=gated)
            specs[spec.name] = spec
    return list(specs.values())


def _linear_spec(
    tuning: TritonTuning, config: LinearConfig, outputs: int, inputs: int
) -> KernelSpec:
    if config.block_m < 16:
        return _fused_spec(config, outputs, inputs, norm=False, gated=False)
    steps = -(-inputs // config.block_k)
    constants = {
        **_tiles(config, outputs, inputs),
        "SPLIT_K": min(config.split_k, steps),
        "HAS_BIAS": False,
        "PRECISION": "tf32",
    }
    name = f"skinny_linear_{config.block_m}x{outputs}x{inputs}"
    return _spec(
        name, skinny_linear_kernel, config, constants, tuning.expects("linear", config.block_n)
    )


def _fused_spec(
    config: LinearConfig, outputs: int, inputs: int, *, norm: bool, gated: bool
) -> KernelSpec:
    width = padded_rows(inputs)
    constants = {
        **_tiles(config, outputs, inputs),
        "BLOCK_K": min(config.block_k, width),
        "WIDTH": width,
        "NORM": norm,
        "ADD": norm,
        "GATED": gated,
        "HAS_BIAS": False,
    }
    kind = f"{'_normed' * norm}{'_gated' * gated}"
    name = f"fused_linear_{config.block_m}x{outputs}x{inputs}{kind}"
    return _spec(name, fused_linear_kernel, config, constants)


def _tiles(config: LinearConfig, outputs: int, inputs: int) -> dict[str, Any]:
    return {
        "K": inputs,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "EVEN_N": outputs % config.block_n == 0,
        "EVICTION": config.eviction,
        "STAGES": config.num_stages,
        "wait": config.wait,
        "release": config.release,
    }


def _spec(
    name: str,
    function: Any,  # noqa: ANN401 - triton's functions are untyped
    config: LinearConfig,
    constants: dict[str, Any],
    expects: frozenset[str] = frozenset(),
) -> KernelSpec:
    others = {"M": "i32", "N": "i32", "x_stride": "i32", "eps": "fp32"}
    others |= {"partial": "*fp32", "counters": "*i32"}
    return KernelSpec(
        name=name,
        function=function,
        signature={
            argument: "constexpr" if argument in constants else others.get(argument, "*bf16")
            for argument in function.arg_names
        },
        constants=constants,
        config=config,
        divisible=frozenset({"N", "x_stride"}),
        expects=expects,
    )
