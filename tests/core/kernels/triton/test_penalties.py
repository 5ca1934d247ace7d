"""Penalties against the reference."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import sampling as reference
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.penalties import penalties


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 4), vocab_size=st.sampled_from([1, 63, 64, 100, 300]))
def test_penalties(device: torch.device, rows: int, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocab_size + 5, generator=generator)[:, :vocab_size] * 4
    prompt = torch.rand(rows, vocab_size, generator=generator) < 0.3
    counts = torch.randint(0, 3, (rows, vocab_size), generator=generator, dtype=torch.int32)
    amounts = [torch.rand(rows, generator=generator) * 2 + 0.1 for _ in range(3)]
    logits, prompt, counts = logits.to(device), prompt.to(device), counts.to(device)
    repetition, frequency, presence = (amount.to(device) for amount in amounts)
    kept = logits.clone()
    arguments = (logits, prompt, counts, repetition, frequency, presence)
    actual = penalties(*arguments, RowConfig(block=64))
    torch.testing.assert_close(actual, reference.penalties(*arguments), atol=2e-6, rtol=2e-6)
    assert torch.equal(logits, kept)


def test_neutral_penalties_change_nothing(device: torch.device) -> None:
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(5)).to(device)
    ones, zeros = torch.ones(2, device=device), torch.zeros(2, device=device)
    seen = torch.ones(2, 100, dtype=torch.bool, device=device)
    result = penalties(logits, seen, seen.int(), ones, zeros, zeros, RowConfig(block=64))
    assert torch.equal(result, logits)
