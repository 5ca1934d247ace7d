"""Experts on the kernels: what they give, and what is left to others."""

from __future__ import annotations

import pytest
import torch

from windlass.backend.triton.expert_tiles import choose
from windlass.backend.triton.experts import GroupedExperts
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.experts import DenseExperts, route_experts


def test_few_tokens_need_no_plan(neutral: TritonTuning) -> None:
    choices = neutral.expert_choices(2)
    for tokens in (1, 16, 17, 100_000):
        config = choose(choices, tokens, 8, 128)
        assert (config.plan is None) == (tokens <= 16)


def test_what_the_kernels_do_not_take_is_left_to_others(tuning: TritonTuning) -> None:
    ops = TritonOps(tuning)
    gate_up, down = torch.ones(2, 4, 3, device="meta"), torch.ones(2, 3, 2, device="meta")
    assert "not floating-point numbers on" in ops.supports_pack_experts(gate_up, down).reason
    assert "round" in ops.supports_pack_experts(gate_up, down, "int8").reason
    here = gate_up.new_ones(2, 4, 3, device=tuning.device_type)
    assert ops.supports_pack_experts(here, down)


@pytest.mark.parametrize("tokens", [0, 3, 20])
def test_packed_experts_equal_the_reference(
    tuning: TritonTuning, device: torch.device, tokens: int
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    gate_up = torch.randn(5, 2 * 48, 64, generator=generator).div(8).to(device)
    down = torch.randn(5, 64, 48, generator=generator).div(7).to(device)
    x = torch.randn(tokens, 64, generator=generator).to(device)
    weights, ids = route_experts(torch.randn(tokens, 5, generator=generator), 2, True)
    weights, ids = weights.to(device), ids.to(device)
    found = GroupedExperts(gate_up, down, tuning).apply(x, weights, ids)
    expected = DenseExperts(gate_up, down).apply(x, weights, ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
