"""Rounded weights as the plugin packs them: the reference's values, for any number of rows."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.backend import PackedWeight, Quantization
from windlass.kernels import QuantizedWeight

pytest.importorskip("triton")
from windlass.kernels.triton.quantized_linear import pack as packed_parts
from windlass.kernels.triton.quantized_linear import quantized_linear, tiles
from windlass_cuda.quantized import (
    RoundedWeight,
    quantized_kernel_specs,
    supports_pack_weight,
)
from windlass_cuda.quantized_tuning import MAX_SPLIT_TILES, TILES, Tile, choose, config_of

FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
every_format = pytest.mark.parametrize("quantization", FORMATS)
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# Without overlap in the interpreter, which has no instruction for it.
ARCH = "sm_80" if INTERPRETED else "sm_90"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def pack(weight: torch.Tensor, quantization: Quantization) -> PackedWeight:
    return RoundedWeight(weight, quantization, ARCH, 132)


@every_format
def test_the_values_are_the_reference_values(quantization: Quantization) -> None:
    weight = random(37, 96)
    values = pack(weight, quantization).apply(torch.eye(96, device=DEVICE)).T
    assert torch.equal(values, QuantizedWeight(weight, quantization).values())


@every_format
@pytest.mark.parametrize("rows", [0, 1, 20, 70])
def test_any_number_of_rows(quantization: Quantization, rows: int) -> None:
    weight, bias = random(40, 320), random(40, seed=1).half()
    x = random(rows, 320, seed=2).half()
    packed = pack(weight.half(), quantization)
    wanted = x.float() @ QuantizedWeight(weight.half(), quantization).values().T + bias.float()
    for found in (packed.apply(x, bias), packed.apply_float(x, bias)):
        assert found.shape == (rows, 40)
        assert torch.allclose(found.float(), wanted, rtol=2e-3, atol=5e-2)
    assert packed.apply(x, bias).dtype is torch.float16
    assert packed.apply_float(x, bias).dtype is torch.float32


@every_format
def test_columns_of_x_may_lie_apart(quantization: Quantization) -> None:
    packed, x = pack(random(8, 64), quantization), random(64, 5, seed=1).T
    assert torch.equal(packed.apply(x), packed.apply(x.contiguous()))


def test_x_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[T, 64\]"):
        pack(random(8, 64), "int8").apply(random(2, 128))


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 4.5), ("fp8", 8)])
def test_its_bytes_are_those_of_numbers_and_scales(quantization: Quantization, bits: float) -> None:
    scales = 0 if quantization == "int4" else 4 * 2100  # of int4 they count among the bits
    assert pack(random(2100, 256), quantization).nbytes == 2100 * 256 * bits / 8 + scales


@every_format
def test_a_weight_on_the_host_is_left_to_the_reference(quantization: Quantization) -> None:
    assert "GPU" in supports_pack_weight(torch.zeros(4, 4), quantization).reason


def test_a_weight_that_is_not_rounded_is_left_to_others() -> None:
    assert not supports_pack_weight(torch.zeros(4, 4))


@pytest.mark.parametrize(("capability", "taken"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_needs_a_gpu_that_converts_it(
    capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, device="meta")
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    assert bool(supports_pack_weight(weight, "fp8")) is taken
    if not taken:
        assert "8.9" in supports_pack_weight(weight, "fp8").reason
    assert supports_pack_weight(weight, "int8")


@every_format
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_every_split_tile_has_a_counter(quantization: Quantization, arch: str) -> None:
    for rows in (1, 16, 17, 64, 65, 256, 8192):
        for channels, inputs in ((4096, 14336), (6144, 4096), (128256, 4096), (1, 1)):
            config = choose(arch, 132, quantization, rows, channels, inputs)
            assert config.splits == 1 or tiles(rows, channels, config) <= MAX_SPLIT_TILES


def test_kernels_to_compile_leave_fp8_out_where_it_cannot_be_converted() -> None:
    assert any("fp8" in spec.name for spec in quantized_kernel_specs("sm_90"))
    assert not any("fp8" in spec.name for spec in quantized_kernel_specs("sm_80"))


@pytest.mark.skipif(INTERPRETED, reason="takes hours in the interpreter, whose bf16 is wrong")
@pytest.mark.parametrize(
    ("quantization", "tile"), [(name, tile) for name in FORMATS for tile in TILES[name]]
)
@pytest.mark.parametrize(("channels", "inputs"), [(4096, 4096), (1000, 1408)])
def test_every_tile_in_bfloat16_at_sizes_of_models(
    quantization: Quantization, tile: Tile, channels: int, inputs: int, gpu: torch.device
) -> None:
    weight = random(channels, inputs)
    values = QuantizedWeight(weight, quantization).values()
    numbers, scales = packed_parts(weight, quantization)
    arrived = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device=gpu)
    properties = torch.cuda.get_device_properties(gpu)
    arch = f"sm_{properties.major}{properties.minor}"
    for rows in (1, 3, 17, 70):
        x = random(rows, inputs, seed=rows).bfloat16()
        out = torch.full((rows, channels), torch.nan, dtype=torch.bfloat16, device=gpu)
        chip = (arch, properties.multi_processor_count)
        config = config_of(tile, *chip, rows, channels, inputs)
        quantized_linear(x, numbers, scales, None, out, arrived, quantization, config)
        wanted = (x.double() @ values.double().T).float()
        # bf16 has 8 bits: results are rounded, and int4's scaled weights are, each by up to 2**-9.
        error = (out.float() - wanted).abs().max() / wanted.abs().max()
        assert error <= 2**-7, f"{rows} rows: {float(error)}"
        assert not arrived.any()
