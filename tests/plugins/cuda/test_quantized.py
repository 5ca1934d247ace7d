"""The plugin's tiles of products with rounded weights."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.backend import Quantization
from windlass.kernels import QuantizedWeight

pytest.importorskip("triton")

from windlass.backend.triton.quantized_tiles import MAX_SPLIT_TILES, QuantizedTile, config_of
from windlass.kernels.triton.quantized_linear import pack as packed_parts
from windlass.kernels.triton.quantized_linear import quantized_linear, tiles
from windlass_cuda.device import tuning_of
from windlass_cuda.quantized_tuning import TILES
from windlass_cuda.tuning import CudaTuning

FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


def random(device: torch.device, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize(("arch", "taken"), [("sm_80", False), ("sm_89", True), ("sm_90", True)])
def test_fp8_needs_a_gpu_that_converts_it(arch: str, taken: bool) -> None:
    tuning = CudaTuning(arch, 108)
    assert bool(tuning.supports_quantization("fp8")) is taken
    if not taken:
        assert "8.9" in tuning.supports_quantization("fp8").reason
    assert tuning.supports_quantization("int8")


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_every_split_tile_has_a_counter(quantization: Quantization, arch: str) -> None:
    tuning = CudaTuning(arch, 132)
    for rows in (1, 16, 17, 64, 65, 256, 8192):
        for channels, inputs in ((4096, 14336), (6144, 4096), (128256, 4096), (1, 1)):
            config = tuning.quantized_config(quantization, rows, channels, inputs)
            assert config.splits == 1 or tiles(rows, channels, config) <= MAX_SPLIT_TILES


@pytest.mark.parametrize("quantization", FORMATS)
def test_little_shared_memory_gets_two_stages(quantization: Quantization) -> None:
    few, many = (CudaTuning(arch, 100).quantized_tiles(quantization) for arch in ("sm_86", "sm_80"))
    assert {tile.num_stages for tile in few} == {2}
    assert all(tile.num_stages > 2 for tile in many)


@pytest.mark.skipif(INTERPRETED, reason="takes hours in the interpreter, whose bf16 is wrong")
@pytest.mark.parametrize(
    ("quantization", "tile"), [(name, tile) for name in FORMATS for tile in TILES[name]]
)
@pytest.mark.parametrize(("channels", "inputs"), [(4096, 4096), (1000, 1408)])
def test_every_tile_in_bfloat16_at_sizes_of_models(
    quantization: Quantization, tile: QuantizedTile, channels: int, inputs: int, gpu: torch.device
) -> None:
    weight = random(gpu, channels, inputs)
    values = QuantizedWeight(weight, quantization).values()
    numbers, scales = packed_parts(weight, quantization)
    arrived = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device=gpu)
    tuning = tuning_of(gpu.index)
    for rows in (1, 3, 17, 70):
        x = random(gpu, rows, inputs, seed=rows).bfloat16()
        out = torch.full((rows, channels), torch.nan, dtype=torch.bfloat16, device=gpu)
        shape = (tuning.units, rows, channels, inputs)
        config = config_of(tile, *shape, tuning.launch_arguments(), tuning.unpack)
        quantized_linear(x, numbers, scales, None, out, arrived, quantization, config)
        wanted = (x.double() @ values.double().T).float()
        # bf16 has 8 bits: results are rounded, and int4's scaled weights are, each by up to 2**-9.
        error = (out.float() - wanted).abs().max() / wanted.abs().max()
        assert error <= 2**-7, f"{rows} rows: {float(error)}"
        assert not arrived.any()
