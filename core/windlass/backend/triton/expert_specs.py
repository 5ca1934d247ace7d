"""Kernels of mixtures of experts, with sizes of a real model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton

from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.grouped_linear import (
    ExpertsConfig,
    GroupedConfig,
    down_kernel,
    gate_up_kernel,
    total_kernel,
)
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig
from windlass.kernels.triton.routing import bins, plan_kernel, route_kernel

_BF16_BYTES = 2
_EXPERTS, _TOP_K, _HIDDEN, _INTERMEDIATE = 128, 8, 2048, 768
"""Of Qwen3-30B-A3B."""


def expert_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """Every kernel with every tile of the tuning, in bf16."""
    configs = [choice.config for choice in tuning.expert_choices(_BF16_BYTES)]
    total = {"SIZE": _HIDDEN, "TOP_K": _TOP_K, "BLOCK": configs[0].total.block}
    return [
        *_routing_specs(tuning, configs[-1]),
        *(spec for config in configs for spec in _product_specs(tuning, config)),
        _spec("experts_total", total_kernel, total, configs[0].total),
    ]


def _routing_specs(tuning: TritonTuning, config: ExpertsConfig) -> list[KernelSpec]:
    routing, plan = tuning.route_config(), config.plan
    assert plan is not None
    routed = {
        "NUM_EXPERTS": _EXPERTS,
        "TOP_K": _TOP_K,
        "RENORMALIZE": True,
        "EXPERTS": triton.next_power_of_2(_EXPERTS),
        "SLOTS": triton.next_power_of_2(_TOP_K),
        "TOKENS": routing.tokens,
    }
    planned = {
        "NUM_EXPERTS": _EXPERTS,
        "BINS": bins(_EXPERTS),
        "BLOCK_M": config.block_m,
        "BLOCK": plan.block,
    }
    return [
        _spec("route_experts", route_kernel, routed, routing),
        _spec("plan_tiles", plan_kernel, planned, plan),
    ]


def _product_specs(tuning: TritonTuning, config: ExpertsConfig) -> list[KernelSpec]:
    shared = {
        "HIDDEN": _HIDDEN,
        "INTERMEDIATE": _INTERMEDIATE,
        "PLANNED": config.plan is not None,
        "CHOICES": triton.next_power_of_2(config.block_m * _TOP_K),
        "BLOCK_M": config.block_m,
    }
    name = f"{config.block_m}" + ("" if config.plan else "_unplanned")
    kernels = {
        "gate_up": (gate_up_kernel, {**shared, "TOP_K": _TOP_K}, config.gate_up),
        "down": (down_kernel, shared, config.down),
    }
    return [
        _spec(
            f"experts_{kind}_{name}",
            kernel,
            {**constants, **_blocks(product)},
            product,
            tuning.expects("experts", product.block_n if product.swap else config.block_m),
        )
        for kind, (kernel, constants, product) in kernels.items()
    ]


def _blocks(product: GroupedConfig) -> dict[str, object]:
    return {
        "BLOCK_N": product.block_n,
        "BLOCK_K": product.block_k,
        "GROUP": product.group,
        "SWAP": product.swap,
    }


_POINTERS = {
    **dict.fromkeys(("logits", "x", "gate_up", "down", "out", "parts"), "*bf16"),
    **dict.fromkeys(("ids", "plan", "map"), "*i32"),
    "weights": "*fp32",
}


def _spec(
    name: str,
    function: Any,  # noqa: ANN401 - a Triton function has no type
    constants: Mapping[str, object],
    config: LaunchConfig,
    expects: frozenset[str] = frozenset(),
) -> KernelSpec:
    constants = {**constants, "wait": config.wait, "release": config.release}
    return KernelSpec(
        name=name,
        function=function,
        signature={
            argument: "constexpr" if argument in constants else _POINTERS.get(argument, "i32")
            for argument in function.arg_names
        },
        constants=constants,
        config=config,
        expects=expects,
    )
