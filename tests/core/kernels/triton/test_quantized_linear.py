"""Products with rounded weights against the reference's weight, for any shape and any split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.config import Quantization
from windlass.kernels import QuantizedWeight
from windlass.kernels.triton.quantized_linear import (
    QuantizedConfig,
    pack,
    quantized_linear,
    tiles,
)

# The widest tolerance is int4's in half precision: its scaled weight is rounded to the dtype of x.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
every_format = pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
CONFIG = QuantizedConfig(rows=16, channels=32)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    quantization: Quantization,
    config: QuantizedConfig,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """What the kernel writes between two columns that nobody may touch."""
    device = x.device
    rows, channels = len(x), len(weight)
    framed = torch.full((rows + 1, channels + 2), torch.nan, dtype=out_dtype or x.dtype).to(device)
    arrived = torch.zeros(tiles(rows, channels, config), dtype=torch.int32, device=device)
    numbers, scales = (part.to(device) for part in pack(weight, quantization))
    out = framed[:rows, 1:-1]
    quantized_linear(x, numbers, scales, bias, out, arrived, quantization, config)
    assert framed[:, [0, -1]].isnan().all()
    assert framed[-1].isnan().all(), "a row beyond the last was written"
    assert not arrived.any()
    return out.cpu()


def expected(
    x: torch.Tensor, weight: torch.Tensor, quantization: Quantization, bias: torch.Tensor | None
) -> torch.Tensor:
    result = x.cpu().float() @ QuantizedWeight(weight, quantization).values().T
    return result if bias is None else result + bias.cpu().float()


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert found.isfinite().all()
    assert float((found.float() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@every_format
@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(1, 37),
    channels=st.integers(1, 75),
    inputs=st.one_of(st.sampled_from((128, 256, 512)), st.integers(1, 400)),
    splits=st.integers(1, 4),
    has_bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape_and_split_equals_the_reference(
    quantization: Quantization,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    rows: int,
    channels: int,
    inputs: int,
    splits: int,
    has_bias: bool,
    seed: int,
) -> None:
    weight = random(channels, inputs, seed=seed)
    dtype = dtypes[seed % len(dtypes)]
    x = random(rows, inputs, seed=seed + 1).to(device, dtype)
    bias = random(channels, seed=seed + 2).to(device, dtype) if has_bias else None
    found = product(x, weight, quantization, replace(CONFIG, splits=splits), bias)
    assert found.dtype is dtype
    assert_near(found, expected(x, weight, quantization, bias), TOLERANCE[dtype])


@every_format
def test_tiles_of_many_rows_in_bands_and_float32_results(
    quantization: Quantization, device: torch.device, dtypes: tuple[torch.dtype, ...]
) -> None:
    config = QuantizedConfig(rows=64, channels=64, num_warps=4, band=2)
    weight = random(70, 130, seed=0)
    x = random(150, 130, seed=1).to(device, dtypes[-1])
    found = product(x, weight, quantization, config, out_dtype=torch.float32)
    assert found.dtype is torch.float32
    assert_near(found, expected(x, weight, quantization, None), TOLERANCE[x.dtype])


@every_format
def test_rows_of_x_may_lie_apart(quantization: Quantization, device: torch.device) -> None:
    weight = random(40, 128, seed=0)
    wide = random(5, 300, seed=1).to(device)
    x = wide[:, 16:144]
    found = product(x, weight, quantization, replace(CONFIG, splits=2))
    assert_near(found, expected(x, weight, quantization, None), TOLERANCE[torch.float32])


@every_format
def test_a_row_of_nan_spoils_no_other(quantization: Quantization, device: torch.device) -> None:
    weight = random(40, 128, seed=0)
    x = random(3, 128, seed=1).to(device)
    clean = product(x, weight, quantization, CONFIG)
    x[1, 5] = torch.nan
    spoilt = product(x, weight, quantization, CONFIG)
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])


def test_int4_scales_of_numbers_or_of_sums(device: torch.device) -> None:
    weight = random(33, 400, seed=0)
    x = random(2, 400, seed=1).to(device)
    wanted = expected(x, weight, "int4", None)
    for scale_sums in (True, False):
        found = product(x, weight, "int4", replace(CONFIG, scale_sums=scale_sums))
        assert_near(found, wanted, TOLERANCE[torch.float32])


@every_format
def test_operands_that_do_not_fit_are_refused(
    quantization: Quantization, device: torch.device
) -> None:
    numbers, scales = (part.to(device) for part in pack(random(8, 300, seed=0), quantization))
    out, arrived = torch.empty(2, 8, device=device), torch.zeros(0, dtype=torch.int32)
    x = random(2, 300, seed=1).to(device)
    for wrong, message in ((x[:, :256], "chunks"), (x.T.contiguous().T, "rows"), (x, "counters")):
        with pytest.raises(ValueError, match=message):
            quantized_linear(
                wrong, numbers, scales, None, out, arrived, quantization, replace(CONFIG, splits=3)
            )
