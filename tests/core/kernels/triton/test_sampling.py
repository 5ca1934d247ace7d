"""The sampling kernels against the references: the same tokens, whatever a row asks for."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.kernels import sampling as reference
from windlass.kernels.triton.sampling import SampleConfig, greedy, sample

# Small chunks, so that a row has many; few candidates of a chunk fit, so that some do not.
CONFIG = SampleConfig(block=128, group=32, kept=8, num_warps=1, choose_warps=1)

generated = settings(
    max_examples=8 if os.environ["TRITON_INTERPRET"] == "1" else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
vocab_sizes = st.sampled_from([1, 2, 127, 128, 129, 390])
# Peaked, ordinary, flat, and so coarse that many logits tie.
spreads = st.sampled_from([0.01, 1.0, 3.0, 10.0, -1.0])


def random_logits(
    rows: int, vocab_size: int, spread: float, seed: int, device: torch.device
) -> torch.Tensor:
    """Rows inside a wider tensor of NaN; a negative spread rounds to whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, vocab_size, generator=generator)
    numbers = (numbers * 2).round() if spread < 0 else numbers * spread
    wide = torch.full((rows + 2, vocab_size + 3), torch.nan, device=device)
    inside = wide[1:-1, 1:-2]
    inside.copy_(numbers)
    return inside


@generated
@given(
    rows=st.integers(1, 2),
    vocab_size=vocab_sizes,
    spread=spreads,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 0, 1, 3, 50, 6000]),
    top_p=st.sampled_from([None, 0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_tokens_are_the_references(
    device: torch.device,
    rows: int,
    vocab_size: int,
    spread: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
) -> None:
    logits = random_logits(rows, vocab_size, spread, seed % 1000, device)

    def full(value: float | None, dtype: torch.dtype = torch.float32) -> torch.Tensor | None:
        return None if value is None else torch.full((rows,), value, dtype=dtype, device=device)

    temperatures = torch.full((rows,), temperature, device=device)
    seeds = torch.full((rows,), seed, device=device)
    positions = torch.arange(rows, device=device) + (seed & 0xFFFF)
    filters = (full(top_k, torch.int32), full(top_p), full(min_p))
    tokens = sample(logits, temperatures, *filters, seeds, positions, CONFIG)
    expected = reference.sample(logits, temperatures, *filters, seeds, positions)
    # top_p may fall on the boundary between two tokens, to float32 precision.
    agree = tokens == expected
    for shift in (-1e-5, 1e-5):
        shifted = (filters[0], full(top_p and min(max(top_p + shift, 0.0), 1.0)), filters[2])
        agree |= tokens == reference.sample(logits, temperatures, *shifted, seeds, positions)
    assert agree.all(), (tokens, expected)


def test_rows_have_their_own_parameters(device: torch.device) -> None:
    rows = 6
    logits = random_logits(rows, 250, 2.0, 7, device)
    generator = torch.Generator().manual_seed(1)

    def choose(values: list[float]) -> torch.Tensor:
        index = torch.randint(0, len(values), (rows,), generator=generator)
        return torch.tensor(values)[index].to(device)

    arguments = (
        choose([0.0, 0.5, 1.0, 1.5]),
        choose([0, 1, 20, 200]).int(),
        choose([0.3, 0.8, 1.0]),
        choose([0.0, 0.1]),
        torch.arange(rows, device=device) * 977,
        torch.arange(rows, device=device),
    )
    assert torch.equal(sample(logits, *arguments, CONFIG), reference.sample(logits, *arguments))


def test_a_row_is_sampled_alike_in_any_batch(device: torch.device) -> None:
    logits = random_logits(3, 200, 3.0, 3, device)
    temperature = torch.tensor([0.7, 1.0, 1.3], device=device)
    top_k = torch.tensor([0, 5, 90], dtype=torch.int32, device=device)
    top_p = torch.tensor([0.9, 1.0, 0.5], device=device)
    seed, position = torch.arange(3, device=device) * 1000, torch.arange(3, device=device)
    whole = sample(logits, temperature, top_k, top_p, None, seed, position, CONFIG)
    for i in range(3):
        row = slice(i, i + 1)
        alone = sample(
            logits[row], temperature[row], top_k[row], top_p[row], None, seed[row], position[row],
            CONFIG,
        )  # fmt: skip
        assert alone.item() == whole[i].item()


def test_forbidden_tokens_are_not_drawn(device: torch.device) -> None:
    logits = torch.full((6, 400), -torch.inf, device=device)
    logits[:, 130], logits[:, 131] = 1.0, 0.9
    ones, zeros = torch.ones(6, device=device), torch.zeros(6, dtype=torch.int64, device=device)
    tokens = sample(
        logits, ones, None, ones * 0.95, None, zeros, torch.arange(6, device=device), CONFIG
    )
    assert set(tokens.tolist()) <= {130, 131}


@pytest.mark.parametrize("top_p", [None, 0.99])
def test_only_the_largest_are_drawn_where_each_group_has_one(
    device: torch.device, top_p: float | None
) -> None:
    count = 6
    logits = torch.zeros(count, 250, device=device)
    largest = [3, 90, 150, 240]
    logits[:, largest] = torch.tensor([2.0, 2.1, 2.2, 2.3], device=device)
    ones, seeds = torch.ones(count, device=device), torch.arange(count, device=device)
    top_k = torch.full((count,), 4, dtype=torch.int32, device=device)
    filters = (top_k, None if top_p is None else ones * top_p, None)
    # Far more groups than top_k, so that the groups alone leave four candidates.
    config = replace(CONFIG, group=8)
    tokens = sample(logits, ones, *filters, seeds, seeds, config)
    assert set(tokens.tolist()) <= set(largest)
    assert torch.equal(tokens, reference.sample(logits, ones, *filters, seeds, seeds))


@generated
@given(rows=st.integers(0, 4), vocab_size=vocab_sizes, spread=spreads, seed=st.integers(0, 99))
def test_greedy(device: torch.device, rows: int, vocab_size: int, spread: float, seed: int) -> None:
    logits = random_logits(rows, vocab_size, spread, seed, device)
    largest, tokens = greedy(logits, CONFIG)
    expected = logits.max(dim=-1).values if rows else logits.new_empty(0)
    assert torch.equal(largest, expected)
    first = (logits == expected[:, None]).float().argmax(-1)  # of equal ones the first
    assert torch.equal(tokens, first)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_greedy_shows_what_is_not_finite(device: torch.device, number: float) -> None:
    logits = torch.zeros(2, 300, device=device)
    logits[0, 200] = number
    if number == -torch.inf:
        logits[0] = number
    largest, tokens = greedy(logits, CONFIG)
    torch.testing.assert_close(largest, torch.tensor([number, 0.0], device=device), equal_nan=True)
    assert tokens.tolist() == [0 if number == -torch.inf else 200, 0]
