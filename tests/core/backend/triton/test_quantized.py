"""Rounded weights as they are packed: the reference's values, for any number of rows."""

from __future__ import annotations

import pytest
import torch

from windlass.backend import Quantization
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.quantized_tiles import MAX_SPLIT_TILES
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels import QuantizedWeight
from windlass.kernels.triton.quantized_linear import tiles

FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
every_format = pytest.mark.parametrize("quantization", FORMATS)


@pytest.fixture
def ops(tuning: TritonTuning) -> TritonOps:
    return TritonOps(tuning)


def random(device: torch.device, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


@every_format
def test_the_values_are_the_reference_values(
    ops: TritonOps, device: torch.device, quantization: Quantization
) -> None:
    weight = random(device, 37, 96)
    values = ops.round_weight(weight, quantization).apply(torch.eye(96, device=device)).T
    assert torch.equal(values, QuantizedWeight(weight, quantization).values())


@every_format
@pytest.mark.parametrize("rows", [0, 1, 20, 70])
def test_any_number_of_rows(
    ops: TritonOps, device: torch.device, quantization: Quantization, rows: int
) -> None:
    weight, bias = random(device, 40, 320).half(), random(device, 40, seed=1).half()
    x = random(device, rows, 320, seed=2).half()
    packed = ops.round_weight(weight, quantization)
    wanted = x.float() @ QuantizedWeight(weight, quantization).values().T + bias.float()
    for found in (packed.apply(x, bias), packed.apply_float(x, bias)):
        assert found.shape == (rows, 40)
        assert torch.allclose(found.float(), wanted, rtol=2e-3, atol=5e-2)
    assert packed.apply(x, bias).dtype is torch.float16
    assert packed.apply_float(x, bias).dtype is torch.float32


@every_format
def test_columns_of_x_may_lie_apart(
    ops: TritonOps, device: torch.device, quantization: Quantization
) -> None:
    packed = ops.round_weight(random(device, 8, 64), quantization)
    x = random(device, 64, 5, seed=1).T
    assert torch.equal(packed.apply(x), packed.apply(x.contiguous()))


def test_x_of_another_width_is_refused(ops: TritonOps, device: torch.device) -> None:
    packed = ops.round_weight(random(device, 8, 64), "int8")
    with pytest.raises(ValueError, match=r"\[T, 64\]"):
        packed.apply(random(device, 2, 128))


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 4.5), ("fp8", 8)])
def test_its_bytes_are_those_of_numbers_and_scales(
    ops: TritonOps, device: torch.device, quantization: Quantization, bits: float
) -> None:
    scales = 0 if quantization == "int4" else 4 * 2100  # of int4 they count among the bits
    packed = ops.round_weight(random(device, 2100, 256), quantization)
    assert packed.nbytes == 2100 * 256 * bits / 8 + scales


@every_format
def test_a_weight_elsewhere_is_left_to_the_reference(
    ops: TritonOps, quantization: Quantization
) -> None:
    elsewhere = torch.zeros(4, 4, device="meta")
    assert "floating-point" in ops.supports_round_weight(elsewhere, quantization).reason


def test_a_weight_that_is_not_rounded_is_left_to_others(
    ops: TritonOps, device: torch.device
) -> None:
    assert not ops.supports_round_weight(torch.zeros(4, 4, device=device))


@every_format
def test_every_split_tile_has_a_counter(tuning: TritonTuning, quantization: Quantization) -> None:
    for rows in (1, 16, 17, 64, 65, 256, 8192):
        for channels, inputs in ((4096, 14336), (6144, 4096), (128256, 4096), (1, 1)):
            config = tuning.quantized_config(quantization, rows, channels, inputs)
            assert config.splits == 1 or tiles(rows, channels, config) <= MAX_SPLIT_TILES
