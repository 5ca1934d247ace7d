"""Token masks against the reference, to the bit."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import sampling as reference
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.token_mask import apply_token_mask

CONFIG = RowConfig(block=64)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 4), vocab_size=st.sampled_from([1, 31, 32, 33, 64, 100, 300]))
def test_token_masks(device: torch.device, rows: int, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocab_size + 5, generator=generator)[:, :vocab_size]
    words = -(-vocab_size // 32)
    mask = torch.randint(-(2**31), 2**31 - 1, (rows, words), generator=generator).int()
    logits, mask = logits.to(device), mask.to(device)
    kept = logits.clone()
    actual = apply_token_mask(logits, mask, CONFIG)
    assert torch.equal(actual, reference.apply_token_mask(logits, mask))
    assert torch.equal(logits, kept)


def test_the_last_bit_of_a_word_is_a_token_like_the_others(device: torch.device) -> None:
    logits = torch.zeros(1, 64, device=device)
    mask = torch.tensor([[-(2**31), 1]], dtype=torch.int32, device=device)
    allowed = apply_token_mask(logits, mask, CONFIG).isfinite().nonzero()[:, 1]
    assert allowed.tolist() == [31, 32]


def test_a_logit_that_is_not_allowed_is_not_looked_at(device: torch.device) -> None:
    logits = torch.full((1, 32), torch.nan, device=device)
    mask = torch.zeros(1, 1, dtype=torch.int32, device=device)
    assert torch.equal(apply_token_mask(logits, mask, CONFIG), torch.full_like(logits, -torch.inf))
