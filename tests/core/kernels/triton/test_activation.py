"""SwiGLU's elementwise part against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import reference
from windlass.kernels.triton.activation import silu_mul
from windlass.kernels.triton.launch import RowConfig

CONFIG = RowConfig(block=128)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 5), size=st.sampled_from([1, 64, 100, 128, 300, 512]))
def test_silu_mul(
    device: torch.device, dtypes: tuple[torch.dtype, ...], rows: int, size: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    for dtype in dtypes:
        wide = torch.full((rows, 2 * size + 16), torch.nan, dtype=dtype, device=device)
        x = wide[:, : 2 * size]
        x.copy_(torch.randn(rows, 2 * size, generator=generator) * 4)
        actual, expected = silu_mul(x, CONFIG), reference.silu_mul(x)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter's numpy
@pytest.mark.parametrize("gate", [-1e4, -100.0, 0.0, 100.0])
def test_large_gates_do_not_overflow(device: torch.device, gate: float) -> None:
    x = torch.tensor([[gate] * 8 + [2.0] * 8], device=device)
    torch.testing.assert_close(silu_mul(x, CONFIG), reference.silu_mul(x))
