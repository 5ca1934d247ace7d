"""Products over few rows equal the ops that they replace, one after the other."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.kernels.reference import add_rms_norm, rms_norm, silu_mul
from windlass.kernels.triton.fused_linear import LinearConfig, Norm, fused_linear
from windlass.kernels.triton.skinny_linear import skinny_linear, split_counters

EXAMPLES = 6 if os.environ["TRITON_INTERPRET"] == "1" else 4
"""Each is a kernel to compile on a GPU."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
"""Three roundings of the dtype: sums in another order may be rounded to a neighbour, and of gate,
up and their product each is rounded."""


def random(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(device, dtype)


def matrix(outputs: int, inputs: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    scale: float = inputs**-0.5
    return (random(outputs, inputs, dtype=torch.float32, device=device) * scale).to(dtype)


def assert_near(got: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def padded(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows=st.integers(1, 8),
    outputs=st.sampled_from([8, 20, 48]),
    inputs=st.sampled_from([32, 48, 80, 128]),
    block_n=st.sampled_from([4, 16]),
    block_k=st.sampled_from([32, 256]),
    biased=st.booleans(),
)
def test_few_rows(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    rows: int,
    outputs: int,
    inputs: int,
    block_n: int,
    block_k: int,
    biased: bool,
) -> None:
    config = LinearConfig(block_m=padded(rows), block_n=block_n, block_k=block_k)
    for dtype in dtypes:
        # A view of wider rows, as a slice of another product is.
        x = random(rows, inputs + 16, dtype=dtype, device=device)[:, :inputs]
        weight = matrix(outputs, inputs, dtype, device)
        bias = random(outputs, dtype=dtype, device=device, seed=1) if biased else None
        out = skinny_linear(x, weight, bias, config)
        assert_near(out, F.linear(x, weight, bias))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows=st.integers(1, 5),
    outputs=st.sampled_from([8, 20]),
    inputs=st.sampled_from([48, 64, 128]),
    block_k=st.sampled_from([32, 256]),
    biased=st.booleans(),
    gated=st.booleans(),
    first=st.booleans(),
)
def test_norm_before_and_gate_after(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    rows: int,
    outputs: int,
    inputs: int,
    block_k: int,
    biased: bool,
    gated: bool,
    first: bool,
) -> None:
    """The first layer has no residual; the residual that goes in is not overwritten."""
    config = LinearConfig(block_m=padded(rows), block_n=8, block_k=block_k)
    for dtype in dtypes:
        x = random(rows, inputs, dtype=dtype, device=device)
        residual = random(rows, inputs, dtype=dtype, device=device, seed=1)
        factors = random(inputs, dtype=dtype, device=device, seed=2)
        weight = matrix(2 * outputs if gated else outputs, inputs, dtype, device)
        bias = random(len(weight), dtype=dtype, device=device, seed=3) if biased else None
        if first:
            normed, expected_residual = rms_norm(x, factors, 1e-6), x
        else:
            normed, expected_residual = add_rms_norm(x, residual, factors, 1e-6)
        expected = F.linear(normed, weight, bias)
        expected = silu_mul(expected) if gated else expected
        before = residual.clone()

        out, added = fused_linear(
            x,
            weight,
            bias,
            config,
            norm=Norm(factors, 1e-6),
            residual=None if first else residual,
            gated=gated,
        )
        assert_near(out, expected)
        assert torch.equal(added, expected_residual)
        assert torch.equal(residual, before)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows=st.integers(1, 64),
    outputs=st.sampled_from([32, 40, 64]),
    inputs=st.sampled_from([32, 80, 160]),
    split_k=st.sampled_from([1, 2, 3, 8]),
    biased=st.booleans(),
)
def test_matrix_instructions_and_split_inputs(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    rows: int,
    outputs: int,
    inputs: int,
    split_k: int,
    biased: bool,
) -> None:
    config = LinearConfig(block_m=max(16, padded(rows)), block_n=32, block_k=32, split_k=split_k)
    for dtype in dtypes:
        x = random(rows, inputs, dtype=dtype, device=device)
        weight = matrix(outputs, inputs, dtype, device)
        bias = random(outputs, dtype=dtype, device=device, seed=1) if biased else None
        counters = split_counters(outputs, device)
        for _ in range(2):  # the second call finds the counters as the first did
            out = skinny_linear(x, weight, bias, config, counters=counters)
            assert_near(out, F.linear(x, weight, bias))
            assert not counters.any()


@pytest.mark.parametrize("block_m", [4, 16])
def test_float32_outputs_are_not_rounded_first(
    device: torch.device, dtypes: tuple[torch.dtype, ...], block_m: int
) -> None:
    config = LinearConfig(block_m=block_m, block_n=16, block_k=32, split_k=1 if block_m < 16 else 2)
    for dtype in dtypes:
        x = random(3, 96, dtype=dtype, device=device)
        weight = matrix(32, 96, dtype, device)
        counters = split_counters(32, device)
        out = skinny_linear(x, weight, None, config, counters=counters, out_dtype=torch.float32)
        assert out.dtype is torch.float32
        expected = F.linear(x.double(), weight.double()).float()
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_only_rows_of_the_step_are_written(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows in tiles of four and sixteen: what lies behind them stays."""
    canvas = torch.full((16, 48), 7.0, device=device)
    empty = torch.empty

    def carved(*size: object, **options: object) -> torch.Tensor:
        return canvas[:3] if size == ((3, 48),) else empty(*size, **options)  # type: ignore[call-overload]

    x = random(3, 64, dtype=torch.float32, device=device)
    weight = matrix(48, 64, torch.float32, device)
    counters = split_counters(48, device)
    monkeypatch.setattr(torch, "empty", carved)
    for block_m, split_k in ((4, 1), (16, 1), (16, 2)):
        config = LinearConfig(block_m=block_m, block_n=32, block_k=32, split_k=split_k)
        canvas.fill_(7.0)
        canvas[:3] = torch.nan
        out = skinny_linear(x, weight, None, config, counters=counters)
        assert out.data_ptr() == canvas.data_ptr()
        torch.testing.assert_close(out, F.linear(x, weight), rtol=1e-5, atol=1e-5)
        assert (canvas[3:] == 7.0).all()


def test_operands_that_do_not_fit_are_refused(device: torch.device) -> None:
    config = LinearConfig(block_m=4, block_n=16, block_k=32)
    weight = torch.zeros(16, 32, device=device)
    for x in (torch.zeros(5, 32, device=device), torch.zeros(2, 48, device=device)):
        with pytest.raises(ValueError, match="fit"):
            skinny_linear(x, weight, None, config)
    x = torch.zeros(2, 32, device=device)
    tall = LinearConfig(block_m=16, block_n=16, block_k=16, split_k=2)
    with pytest.raises(ValueError, match="counters"):
        skinny_linear(x, weight, None, tall)
    with pytest.raises(ValueError, match="norm"):
        fused_linear(x, weight, None, config, residual=x)
