"""The reference of quantised linear layers: what it keeps and what it rounds."""

import pytest
import torch

from windlass.kernels import QuantizedWeight
from windlass.kernels.quantization import INT4_GROUP
from windlass.kernels.reference import pack_weight

FORMATS = ("int8", "int4", "fp8")
every_format = pytest.mark.parametrize("quantization", FORMATS)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_pack_weight_rounds_only_when_asked() -> None:
    weight = random(6, 40)
    x = random(3, 40, seed=1)
    assert torch.equal(pack_weight(weight).apply(x), x @ weight.T)
    assert isinstance(pack_weight(weight, "int8"), QuantizedWeight)


@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.02), ("int4", 0.12), ("fp8", 0.04)])
@pytest.mark.parametrize("shape", [(1, 33, 7), (5, 64, 2100), (40, 320, 96)])
def test_the_product_is_near_the_exact_one(
    quantization: str, most: float, shape: tuple[int, int, int]
) -> None:
    rows, inputs, outputs = shape
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    found = QuantizedWeight(weight, quantization).apply(x, bias)  # type: ignore[arg-type]
    assert found.shape == (rows, outputs)
    assert relative_error(found - bias, x @ weight.T) < most


def test_int8_is_the_product_of_integers_and_scales() -> None:
    x = torch.tensor([[127.0, -3.0, 0.6]])
    weight = torch.tensor([[1.27, 0.1, -0.014], [0.0, 0.0, 0.0]])
    # Rows become 127 -3 1 and 127 10 -1, the latter in hundredths.
    found = QuantizedWeight(weight, "int8").apply(x)
    assert torch.allclose(found, torch.tensor([[(127 * 127 - 3 * 10 - 1) / 100, 0.0]]))


def test_int4_keeps_weights_that_it_can_represent() -> None:
    integers = torch.randint(-8, 8, (5, 4 * INT4_GROUP), generator=torch.Generator().manual_seed(3))
    integers[:, ::INT4_GROUP] = -8
    weight = integers * torch.tensor([2.0**-9, 1.5, 0.0, -0.75, 64.0])[:, None]
    unit = torch.eye(weight.shape[1])
    assert torch.allclose(QuantizedWeight(weight, "int4").apply(unit).T, weight, rtol=1e-6, atol=0)


def test_fp8_keeps_weights_that_it_can_represent_and_does_not_round_activations() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = numbers[numbers.isfinite()]
    weight = finite * torch.tensor([2.0**-9, 1.5, 0.0, -0.75, 64.0])[:, None]
    packed = QuantizedWeight(weight, "fp8")
    assert torch.allclose(packed.values(), weight, rtol=1e-6, atol=0)
    x = random(3, len(finite))
    assert torch.allclose(packed.apply(x), x @ weight.T, rtol=1e-5, atol=1e-2)


def test_an_fp8_channel_with_infinity_becomes_nan_and_no_other() -> None:
    weight = random(3, 40)
    weight[1, 7] = float("inf")
    values = QuantizedWeight(weight, "fp8").values()
    assert values[1].isnan().any()
    assert values[[0, 2]].isfinite().all()


@every_format
def test_the_product_is_that_of_the_values(quantization: str) -> None:
    packed = QuantizedWeight(random(9, 70), quantization)  # type: ignore[arg-type]
    assert packed.values().shape == (9, 70)
    assert torch.allclose(packed.apply(torch.eye(70)).T, packed.values(), rtol=1e-6, atol=0)


@every_format
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_result_has_the_dtype_of_the_activations(quantization: str, dtype: torch.dtype) -> None:
    packed = QuantizedWeight(random(8, 32).to(dtype), quantization)  # type: ignore[arg-type]
    x = random(2, 32, seed=1).to(dtype)
    assert packed.apply(x).dtype is dtype
    assert packed.apply_float(x).dtype is torch.float32


@every_format
def test_a_row_does_not_depend_on_the_others(quantization: str) -> None:
    packed = QuantizedWeight(random(96, 256), quantization)  # type: ignore[arg-type]
    x = random(20, 256, seed=1)
    together = packed.apply(x)
    x[0, 7] = float("nan")
    x[1] *= 1000
    spoilt = packed.apply(x)
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[2:], together[2:])


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 4.5), ("fp8", 8)])
def test_its_bytes_are_those_of_integers_and_scales(quantization: str, bits: float) -> None:
    packed = QuantizedWeight(random(5000, 1024), quantization)  # type: ignore[arg-type]
    scales = 0 if quantization == "int4" else 4 * 5000  # of int4 they count among the bits
    assert packed.nbytes == 5000 * 1024 * bits / 8 + scales
