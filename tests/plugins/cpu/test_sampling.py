"""The sampling kernels against the references: the same tokens, at every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import sampling as reference
from windlass_cpu.built import library_path
from windlass_cpu.library import ISA_NAMES, best_isa, force_isa

if library_path() is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

from windlass_cpu import sampling

LEVELS = ISA_NAMES[: min(ISA_NAMES.index(best_isa()), ISA_NAMES.index("avx512")) + 1]

generated = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
vocab_sizes = st.sampled_from([1, 2, 15, 16, 17, 100, 1000, 1024, 5003])
# Peaked, ordinary, flat, and so coarse that many logits tie.
spreads = st.sampled_from([0.01, 1.0, 3.0, 10.0, -1.0])


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    force_isa(request.param)
    yield request.param
    force_isa(best_isa())


def random_logits(rows: int, vocab_size: int, spread: float, seed: int) -> torch.Tensor:
    """Rows inside a wider tensor of NaN; a negative spread rounds to whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, vocab_size, generator=generator)
    numbers = (numbers * 2).round() if spread < 0 else numbers * spread
    wide = torch.full((rows + 2, vocab_size + 3), torch.nan)
    inside = wide[1:-1, 1:-2]
    inside.copy_(numbers)
    return inside


@generated
@given(
    rows=st.integers(1, 5),
    vocab_size=vocab_sizes,
    spread=spreads,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 0, 1, 3, 50, 6000]),
    top_p=st.sampled_from([None, 0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_tokens_are_the_references(
    level: str,
    rows: int,
    vocab_size: int,
    spread: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
) -> None:
    logits = random_logits(rows, vocab_size, spread, seed % 1000)

    def full(value: float | None, dtype: torch.dtype = torch.float32) -> torch.Tensor | None:
        return None if value is None else torch.full((rows,), value, dtype=dtype)

    temperatures = torch.full((rows,), temperature)
    arguments = (
        logits,
        temperatures,
        full(top_k, torch.int32),
        full(top_p),
        full(min_p),
        torch.full((rows,), seed),
        torch.arange(rows) + (seed & 0xFFFF),
    )
    tokens, expected = sampling.sample(*arguments), reference.sample(*arguments)
    # The random number or top_p may fall on the boundary between two tokens, to float32 precision.
    # Where that decides, the tokens are neighbours by id or by probability: never a rare one.
    if not torch.equal(tokens, expected):
        exact = _boundary_is_close(arguments, tokens, expected)
        assert exact, (tokens, expected)


def _boundary_is_close(
    arguments: tuple[torch.Tensor | None, ...], tokens: torch.Tensor, expected: torch.Tensor
) -> bool:
    """Whether a change of top_p by 1e-5 either way makes the reference choose our token."""
    logits, temperature, top_k, top_p, min_p, seed, position = arguments
    if top_p is None:
        return False
    assert logits is not None
    assert temperature is not None
    assert seed is not None
    assert position is not None
    found = tokens == expected
    for shift in (-1e-5, 1e-5):
        shifted = (top_p + shift).clamp(0, 1)
        other = reference.sample(logits, temperature, top_k, shifted, min_p, seed, position)
        found |= tokens == other
    return bool(found.all())


def test_rows_have_their_own_parameters(level: str) -> None:
    rows = 64
    logits = random_logits(rows, 3001, 2.0, 7)
    generator = torch.Generator().manual_seed(1)

    def choose(values: list[float]) -> torch.Tensor:
        return torch.tensor(values)[torch.randint(0, len(values), (rows,), generator=generator)]

    arguments = (
        logits,
        choose([0.0, 0.5, 1.0]),
        choose([0, 1, 10, 2000]).int(),
        choose([0.2, 0.8, 1.0]),
        choose([0.0, 0.01]),
        torch.arange(rows) * 1_000_003,
        torch.arange(rows),
    )
    assert torch.equal(sampling.sample(*arguments), reference.sample(*arguments))


def test_frequencies_follow_the_softmax(level: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, -1)
    zeros = torch.zeros(20_000, dtype=torch.int64)
    tokens = sampling.sample(
        logits, torch.full((20_000,), 0.7), None, None, None, zeros, torch.arange(20_000)
    )
    frequency = torch.bincount(tokens, minlength=4) / 20_000
    assert torch.allclose(frequency, torch.softmax(logits[0] / 0.7, dim=-1), atol=0.015)


@generated
@given(rows=st.integers(1, 5), vocab_size=vocab_sizes, spread=spreads, seed=st.integers(0, 1000))
def test_greedy_is_the_first_of_the_largest(
    level: str, rows: int, vocab_size: int, spread: float, seed: int
) -> None:
    logits = random_logits(rows, vocab_size, spread, seed)
    largest, tokens = sampling.greedy(logits)
    assert torch.equal(largest, logits.amax(-1))
    first = [row.tolist().index(max(row.tolist())) for row in logits]
    assert tokens.tolist() == first


def test_greedy_shows_what_is_not_finite(level: str) -> None:
    logits = torch.zeros(4, 50)
    logits[0, 33] = torch.nan
    logits[1, 7] = torch.inf
    logits[2] = -torch.inf
    largest, tokens = sampling.greedy(logits)
    assert largest.isfinite().tolist() == [False, False, False, True]
    assert tokens.tolist() == [33, 7, 0, 0]


@generated
@given(
    rows=st.integers(1, 5),
    vocab_size=vocab_sizes,
    spread=st.sampled_from([0.01, 1.0, 10.0]),
    num_top=st.sampled_from([0, 1, 5, 20]),
    seed=st.integers(0, 1000),
)
def test_token_logprobs(
    level: str, rows: int, vocab_size: int, spread: float, num_top: int, seed: int
) -> None:
    num_top = min(num_top, vocab_size)
    logits = random_logits(rows, vocab_size, spread, seed)
    tokens = torch.randint(0, vocab_size, (rows,), generator=torch.Generator().manual_seed(seed))
    chosen, rank, top_ids, top = sampling.token_logprobs(logits, tokens, num_top)
    expected = reference.token_logprobs(logits, tokens, num_top)
    torch.testing.assert_close(chosen, expected[0], atol=4e-6, rtol=1e-6)
    torch.testing.assert_close(top, expected[3], atol=4e-6, rtol=1e-6)
    # Logits that differ by their last bit may tie as log-probabilities.
    assert (rank - expected[1]).abs().max() <= 2
    picked = torch.log_softmax(logits, dim=-1).gather(-1, top_ids)
    torch.testing.assert_close(picked, expected[3], atol=4e-6, rtol=1e-6)
    assert all(len(set(row)) == num_top for row in top_ids.tolist())


def test_forbidden_tokens_are_never_drawn(level: str) -> None:
    logits = random_logits(200, 100, 1.0, 3)
    logits[:, ::2] = -torch.inf
    numbers = torch.arange(200)
    tokens = sampling.sample(logits, torch.ones(200), None, None, None, numbers, numbers)
    assert (tokens % 2 == 1).all()
