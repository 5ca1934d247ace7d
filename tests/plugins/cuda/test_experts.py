"""Experts on the CUDA plugin's kernels: which tiles they get, and what they give."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")

from windlass.kernels.experts import DenseExperts, route_experts
from windlass.kernels.triton.grouped_linear import ExpertsConfig
from windlass_cuda.expert_tuning import choose, expert_configs
from windlass_cuda.experts import GroupedExperts, expert_kernel_specs, supports_pack_experts

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
KIBIBYTE = 1 << 10


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (8, 2), (1, 1)])
def test_every_number_of_tokens_has_tiles(arch: str, experts: int, top_k: int) -> None:
    for itemsize in (2, 4):
        for tokens in (1, 2, 15, 16, 17, 64, 100, 255, 1000, 100_000):
            config = choose(arch, tokens, top_k, experts, itemsize)
            assert config.plan is not None or tokens <= config.block_m
            assert config in expert_configs(arch, itemsize)


def test_more_tokens_get_taller_tiles() -> None:
    rows = [choose("sm_90", tokens, 8, 128).block_m for tokens in (1, 64, 256, 512, 4096)]
    assert rows == [16, 16, 32, 64, 128]


def stage_bytes(config: ExpertsConfig, itemsize: int) -> int:
    """Shared memory of the larger product."""
    gate_up, down = config.gate_up, config.down
    first = (config.block_m + 2 * gate_up.block_n) * gate_up.block_k * gate_up.num_stages
    second = (config.block_m + down.block_n) * down.block_k * down.num_stages
    return itemsize * max(first, second)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loads_in_flight_fit_into_shared_memory(arch: str) -> None:
    limit = 227 if arch in ("sm_90", "sm_100") else 99
    for itemsize in (2, 4):
        for config in expert_configs(arch, itemsize):
            assert stage_bytes(config, itemsize) < limit * KIBIBYTE


def test_kernels_are_named_once() -> None:
    names = [spec.name for spec in expert_kernel_specs("sm_90")]
    assert len(set(names)) == len(names)
    assert all(set(spec.constants) < set(spec.signature) for spec in expert_kernel_specs("sm_80"))


def test_what_the_kernels_do_not_take_is_left_to_others() -> None:
    gate_up, down = torch.ones(2, 4, 3), torch.ones(2, 3, 2)
    assert "not floating-point numbers on the GPU" in supports_pack_experts(gate_up, down).reason
    assert "round" in supports_pack_experts(gate_up, down, "int8").reason


@pytest.mark.parametrize("tokens", [0, 3, 20])
def test_packed_experts_equal_the_reference(tokens: int) -> None:
    on_gpu = os.environ["TRITON_INTERPRET"] == "0"
    device = torch.device("cuda" if on_gpu else "cpu")
    # In the interpreter kernels cannot wait for each other.
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability()) if on_gpu else "sm_80"
    generator = torch.Generator().manual_seed(tokens)
    gate_up = torch.randn(5, 2 * 48, 64, generator=generator).div(8).to(device)
    down = torch.randn(5, 64, 48, generator=generator).div(7).to(device)
    x = torch.randn(tokens, 64, generator=generator).to(device)
    weights, ids = route_experts(torch.randn(tokens, 5, generator=generator), 2, True)
    weights, ids = weights.to(device), ids.to(device)
    found = GroupedExperts(gate_up, down, arch).apply(x, weights, ids)
    expected = DenseExperts(gate_up, down).apply(x, weights, ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
