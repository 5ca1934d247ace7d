"""Log-probabilities against the reference: chosen tokens, ranks and alternatives."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import sampling as reference
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.logprobs import token_logprobs

CONFIG = RowConfig(block=64)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(0, 3),
    vocab_size=st.sampled_from([5, 64, 65, 300]),
    num_top=st.sampled_from([0, 1, 3, 5]),
    spread=st.sampled_from([1.0, 8.0]),
)
def test_logprobs(
    device: torch.device, rows: int, vocab_size: int, num_top: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = (torch.randn(rows, vocab_size + 3, generator=generator) * spread).to(device)
    logits = logits[:, :vocab_size]
    tokens = torch.randint(0, vocab_size, (rows,), generator=generator).to(device)
    actual = token_logprobs(logits, tokens, num_top, CONFIG)
    expected = reference.token_logprobs(logits, tokens, num_top)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_of_equal_logits_each_is_named_once(device: torch.device) -> None:
    logits = torch.zeros(1, 200, device=device)
    tokens = torch.tensor([70], device=device)
    chosen, rank, ids, logprobs = token_logprobs(logits, tokens, 4, CONFIG)
    assert rank.item() == 1
    assert ids.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(logprobs, chosen.expand(1, 4))


def test_forbidden_tokens_have_no_probability(device: torch.device) -> None:
    logits = torch.full((1, 200), -torch.inf, device=device)
    logits[0, 150] = 2.0
    tokens = torch.tensor([3], device=device)
    chosen, rank, ids, logprobs = token_logprobs(logits, tokens, 1, CONFIG)
    assert chosen.item() == -torch.inf
    assert rank.item() == 2
    assert ids.tolist() == [[150]]
    assert logprobs.item() == 0.0
