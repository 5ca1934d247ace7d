"""Dense weights on a GPU's kernels, and the table that chooses them."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F

from windlass.kernels.linear import DenseWeight
from windlass_cuda.linear import (
    GpuWeight,
    linear_kernel_specs,
    pack_weight,
    supports_pack_weight,
)
from windlass_cuda.linear_tuning import MOST_ROWS, fused_config, linear_config

SHAPES = [(4096, 1024), (1024, 3072), (28672, 4096), (4096, 14336), (128256, 4096), (40, 24)]


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device("cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda")


def weight_on(device: torch.device, outputs: int = 80, inputs: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight: torch.Tensor = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
    return weight.to(device=device, dtype=torch.float16)


def packed(weight: torch.Tensor) -> GpuWeight:
    """For an architecture without overlap, which the interpreter does not have."""
    if weight.is_cuda:
        found = pack_weight(weight)
        assert isinstance(found, GpuWeight)
        return found
    return GpuWeight(weight, "sm_80")


@pytest.mark.parametrize("rows", [0, 1, 3, 8, 16, 40, MOST_ROWS + 1])
@pytest.mark.parametrize("biased", [False, True])
def test_any_number_of_rows(device: torch.device, rows: int, biased: bool) -> None:
    weight = weight_on(device)
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(1)).to(device, torch.float16)
    bias = weight[:, 0].clone() if biased else None
    linear = packed(weight)
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(linear.apply(x, bias), expected, rtol=2e-3, atol=2e-3)
    logits = linear.apply_float(x, bias)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits, expected.float(), rtol=2e-3, atol=2e-3)


def test_columns_apart_are_multiplied_too(device: torch.device) -> None:
    weight = weight_on(device)
    x = weight_on(device, 96, 2).t()
    torch.testing.assert_close(packed(weight).apply(x), F.linear(x, weight), rtol=2e-3, atol=2e-3)


def test_rows_of_the_weight_are_kept(device: torch.device) -> None:
    weight = weight_on(device)
    ids = torch.tensor([3, 0, 3], device=device)
    linear = packed(weight)
    assert isinstance(linear, DenseWeight)
    assert linear.keeps_rows
    assert torch.equal(linear.rows(ids), weight[ids])
    assert linear.nbytes == weight.nbytes


def test_other_weights_are_left_to_others() -> None:
    """float32 stays with the vendor's library, whose sums are exact enough for it."""
    meta = torch.empty(8, 8, dtype=torch.float16, device="meta")
    assert "GPU" in supports_pack_weight(meta).reason
    assert "rounded" in supports_pack_weight(meta, "int8").reason


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_every_choice_fits_its_rows(arch: str, outputs: int, inputs: int) -> None:
    for rows in range(1, MOST_ROWS + 1):
        config = linear_config(arch, rows, outputs, inputs)
        if config is None:
            continue
        assert rows <= config.block_m
        for size in (config.block_m, config.block_n, config.block_k):
            assert size & (size - 1) == 0
        assert config.block_m >= 16 or config.split_k == 1
        # Matrix instructions keep their tiles in shared memory, of which sm_80 has least.
        tile = (config.block_n + config.block_m) * config.block_k * 2
        if config.block_m >= 16:
            assert tile * config.num_stages <= 160 << 10
        fused = fused_config(arch, rows, outputs, inputs, gated=True)
        assert fused is None or rows <= fused.block_m
    assert linear_config(arch, MOST_ROWS + 1, outputs, inputs) is None
    assert linear_config(arch, 0, outputs, inputs) is None


def test_a_step_of_one_token_uses_our_kernels() -> None:
    for outputs, inputs in SHAPES[:5]:
        assert linear_config("sm_90", 1, outputs, inputs) is not None


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_kernels_are_listed_for_the_offline_compiler(arch: str) -> None:
    specs = linear_kernel_specs(arch)
    assert len({spec.name for spec in specs}) == len(specs) >= 5
    for spec in specs:
        assert set(spec.signature) == set(spec.function.arg_names)
        constants = {name for name, kind in spec.signature.items() if kind == "constexpr"}
        assert constants == set(spec.constants)
