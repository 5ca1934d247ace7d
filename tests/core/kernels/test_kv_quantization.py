"""Keys and values in one byte: how far they are off, and that nothing is lost unnoticed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from windlass.kernels.kv_quantization import (
    FP8_LARGEST,
    dequantize_kv,
    quantize_kv,
    take_blocks,
)


@given(exponent=st.integers(-60, 60), seed=st.integers(0, 1000))
def test_int8_is_off_by_half_a_scale_whatever_the_magnitude(exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 3, 64, generator=generator) * 2.0**exponent
    stored, scales = quantize_kv(x, torch.int8)
    assert scales is not None
    assert torch.equal(stored.abs().amax(-1), torch.full((7, 3), 127, dtype=torch.int8))
    error = (dequantize_kv(stored, scales, torch.float32) - x).abs()
    assert (error <= 0.5001 * scales[..., None]).all()


@pytest.mark.parametrize(("dtype", "largest"), FP8_LARGEST.items())
def test_fp8_is_off_by_a_sixteenth_and_stops_at_its_largest(
    dtype: torch.dtype, largest: float
) -> None:
    assert largest == torch.finfo(dtype).max
    x = torch.randn(7, 3, 64).clamp(min=2.0**-6) * torch.tensor([1.0, -1.0]).repeat(32)
    stored, scales = quantize_kv(x, dtype)
    assert scales is None
    assert ((dequantize_kv(stored, None, torch.float32) - x).abs() <= x.abs() / 16).all()
    beyond, _ = quantize_kv(torch.tensor([1e9, -torch.inf]), dtype)
    assert beyond.float().tolist() == [largest, -largest]


def test_a_head_of_zeros_stays_one() -> None:
    stored, scales = quantize_kv(torch.zeros(2, 8), torch.int8)
    assert torch.equal(dequantize_kv(stored, scales, torch.float32), torch.zeros(2, 8))


@pytest.mark.parametrize("dtype", [torch.int8, *FP8_LARGEST])
def test_what_is_not_a_number_stays_so(dtype: torch.dtype) -> None:
    stored, scales = quantize_kv(torch.tensor([[1.0, torch.nan], [1.0, 2.0]]), dtype)
    back = dequantize_kv(stored, scales, torch.float32)
    assert back[0].isnan().any()
    assert back[1].isfinite().all()


def test_a_plain_cache_is_only_converted() -> None:
    x = torch.randn(3, 8)
    stored, scales = quantize_kv(x, torch.bfloat16)
    assert scales is None
    assert torch.equal(stored, x.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.int8, *FP8_LARGEST, torch.float16])
def test_blocks_are_taken_with_their_scales(dtype: torch.dtype) -> None:
    cache, scales = quantize_kv(torch.randn(5, 4, 2, 8), dtype)
    blocks = torch.tensor([3, 1])
    everything = dequantize_kv(cache, scales, torch.float32)
    assert torch.equal(take_blocks(cache, scales, blocks, torch.float32), everything[blocks])
