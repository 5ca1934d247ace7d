"""Dense weights on the kernels: any number of rows, and what is left to others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from windlass.backend.triton.linear import TritonWeight
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.linear import DenseWeight

ROWS = [0, 1, 3, 8, 16, 40, 65]


def weight_on(device: torch.device, outputs: int = 80, inputs: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight: torch.Tensor = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
    return weight.to(device=device, dtype=torch.float16)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_any_number_of_rows(
    tuning: TritonTuning, device: torch.device, rows: int, biased: bool
) -> None:
    weight = weight_on(device)
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(1)).to(device, torch.float16)
    bias = weight[:, 0].clone() if biased else None
    linear = TritonWeight(weight, tuning)
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(linear.apply(x, bias), expected, rtol=2e-3, atol=2e-3)
    logits = linear.apply_float(x, bias)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits, expected.float(), rtol=2e-3, atol=2e-3)


def test_columns_apart_are_multiplied_too(tuning: TritonTuning, device: torch.device) -> None:
    weight = weight_on(device)
    x = weight_on(device, 96, 2).t()
    torch.testing.assert_close(
        TritonWeight(weight, tuning).apply(x), F.linear(x, weight), rtol=2e-3, atol=2e-3
    )


def test_rows_of_the_weight_are_kept(tuning: TritonTuning, device: torch.device) -> None:
    weight = weight_on(device)
    ids = torch.tensor([3, 0, 3], device=device)
    linear = TritonWeight(weight, tuning)
    assert isinstance(linear, DenseWeight)
    assert linear.keeps_rows
    assert torch.equal(linear.rows(ids), weight[ids])
    assert linear.nbytes == weight.nbytes


def test_other_weights_are_left_to_others(tuning: TritonTuning) -> None:
    """float32 stays with the vendor's library, whose sums are exact enough for it."""
    ops = TritonOps(tuning)
    elsewhere = torch.empty(8, 8, dtype=torch.float16, device="meta")
    here = torch.empty(8, 8, device=tuning.device_type)
    assert "16-bit" in ops.supports_pack_weight(elsewhere).reason
    assert "16-bit" in ops.supports_pack_weight(here).reason
    assert "rounded" in ops.supports_pack_weight(here.half(), "int8").reason
    assert ops.supports_pack_weight(here.half())
