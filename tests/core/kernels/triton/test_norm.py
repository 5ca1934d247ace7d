"""Norms against the reference, for any width, stride and number of rows."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import reference
from windlass.kernels.triton.launch import LaunchConfig
from windlass.kernels.triton.norm import add_rms_norm, rms_norm

CONFIG = LaunchConfig(num_warps=4)
# One rounding to the model's dtype may fall on the other side.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}

generated = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
rows_of = st.integers(0, 5)
sizes = st.sampled_from([1, 64, 100, 128, 576, 1024, 1536])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
    if expected.dtype is not torch.float32 and expected.numel() > 200:
        assert (actual == expected).float().mean() > 0.97  # almost all are rounded to the same


def numbers(
    rows: int, size: int, dtype: torch.dtype, device: torch.device, seed: int
) -> torch.Tensor:
    """Rows inside a wider tensor of NaN: what is read around them shows."""
    wide = torch.full((rows + 1, size + 16), torch.nan, device=device, dtype=dtype)
    inside = wide[:rows, :size]
    inside.copy_(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))
    return inside


@generated
@given(rows=rows_of, size=sizes)
def test_rms_norm(
    device: torch.device, dtypes: tuple[torch.dtype, ...], rows: int, size: int
) -> None:
    for dtype in dtypes:
        x = numbers(rows, size, dtype, device, 0)
        weight = numbers(1, size, dtype, device, 1)[0]
        close(rms_norm(x, weight, 1e-6, CONFIG), reference.rms_norm(x, weight, 1e-6))


@generated
@given(rows=rows_of, size=sizes)
def test_add_rms_norm(
    device: torch.device, dtypes: tuple[torch.dtype, ...], rows: int, size: int
) -> None:
    for dtype in dtypes:
        x, residual = (numbers(rows, size, dtype, device, seed) for seed in (0, 2))
        weight = numbers(1, size, dtype, device, 1)[0]
        kept = x.clone(), residual.clone()
        normed, total = add_rms_norm(x, residual, weight, 1e-6, CONFIG)
        expected_normed, expected_total = reference.add_rms_norm(x, residual, weight, 1e-6)
        close(normed, expected_normed)
        assert torch.equal(total, expected_total)
        assert torch.equal(x, kept[0])
        assert torch.equal(residual, kept[1])


def test_heads_are_rows_of_their_own(device: torch.device) -> None:
    qkv = numbers(3, 8 * 32, torch.float32, device, 4).view(3, 8, 32)
    query, weight = qkv[:, :5], torch.rand(32, device=device)
    close(rms_norm(query, weight, 1e-6, CONFIG), reference.rms_norm(query, weight, 1e-6))


def test_a_row_of_zeros_stays_zero(device: torch.device) -> None:
    x = torch.zeros(2, 64, device=device)
    assert rms_norm(x, torch.ones(64, device=device), 1e-6, CONFIG).eq(0).all()
