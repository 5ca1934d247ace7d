"""Mixtures of experts on Triton kernels: the routing, and the experts as grouped products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import triton

from windlass.backend import SUPPORTED, PackedExperts, Quantization, Support
from windlass.kernels.triton.grouped_linear import (
    ExpertsConfig,
    GroupedConfig,
    down_kernel,
    gate_up_kernel,
    grouped_experts,
    total_kernel,
)
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig
from windlass.kernels.triton.routing import bins, plan_kernel, route, route_kernel
from windlass_cuda.expert_tuning import choose, expert_configs, route_config

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@cache
def _arch(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def route_experts(
    router_logits: torch.Tensor, top_k: int, renormalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op `route_experts`."""
    return route(router_logits, top_k, renormalize, route_config(_arch(router_logits.device)))


def supports_pack_experts(
    gate_up: torch.Tensor, down: torch.Tensor, quantization: Quantization | None = None
) -> Support:
    """Whether the kernels take the experts: unrounded, on the GPU."""
    del down
    if quantization is not None:
        return Support.no("the kernels round no experts")
    if gate_up.device.type != "cuda" or gate_up.dtype not in _DTYPES:
        return Support.no("the experts are not floating-point numbers on the GPU")
    return SUPPORTED


def pack_experts(
    gate_up: torch.Tensor, down: torch.Tensor, quantization: Quantization | None = None
) -> PackedExperts:
    """The op `pack_experts`, for unrounded experts."""
    del quantization
    return GroupedExperts(gate_up, down, _arch(gate_up.device))


class GroupedExperts(PackedExperts):
    """Experts `gate_up` `[E, 2I, H]` and `down` `[E, H, I]` as they are, for `arch` ("sm_90")."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, arch: str) -> None:
        self.gate_up = gate_up.contiguous()
        self.down = down.contiguous()
        self.nbytes = self.gate_up.nbytes + self.down.nbytes
        self._arch = arch
        self._configs: dict[int, ExpertsConfig] = {}

    def apply(self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """`x` `[T, H]` through the experts `ids`, weighted: `[T, H]`."""
        tokens = len(x)
        config = self._configs.get(tokens)
        if config is None:
            shape = (tokens, ids.shape[1], len(self.down))
            config = choose(self._arch, *shape, self.down.itemsize)
            self._configs[tokens] = config
        return grouped_experts(x.contiguous(), self.gate_up, self.down, weights, ids, config)


_EXPERTS, _TOP_K, _HIDDEN, _INTERMEDIATE = 128, 8, 2048, 768
"""Of Qwen3-30B-A3B."""


def expert_kernel_specs(arch: str) -> list[KernelSpec]:
    """Every kernel with every tile that `choose` takes on `arch`, in bf16."""
    configs = expert_configs(arch)
    total = {"SIZE": _HIDDEN, "TOP_K": _TOP_K, "BLOCK": configs[0].total.block}
    return [
        *_routing_specs(arch, configs[-1]),
        *(spec for config in configs for spec in _product_specs(arch, config)),
        _spec("experts_total", total_kernel, total, configs[0].total),
    ]


def _routing_specs(arch: str, config: ExpertsConfig) -> list[KernelSpec]:
    routing, plan = route_config(arch), config.plan
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


def _product_specs(arch: str, config: ExpertsConfig) -> list[KernelSpec]:
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
            wgmma=arch == "sm_90" and (product.swap or config.block_m >= 64),
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
    *,
    wgmma: bool = False,
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
        expects=frozenset({"wgmma"}) if wgmma else frozenset(),
    )
