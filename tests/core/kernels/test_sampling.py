"""Sampling ops: the random numbers' definition, filters and penalties against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.kernels import philox_uniform
from windlass.kernels.sampling import penalties, sample, token_logprobs


def draw(
    logits: torch.Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> torch.Tensor:
    """`count` tokens from one row of logits, each with its own position."""

    def full(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    return sample(
        logits.expand(count, -1),
        full(temperature),
        None if top_k is None else full(top_k).int(),
        None if top_p is None else full(top_p),
        None if min_p is None else full(min_p),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
    )


def test_philox_gives_the_published_vector() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    assert philox_uniform(zero, zero).item() == (0x6627E8D5 >> 8) * 2.0**-24


def test_random_numbers_depend_on_seed_and_position_only() -> None:
    seed = torch.tensor([7, -7, 1 << 40, 7])
    position = torch.tensor([3, 3, 3, 4])
    together = philox_uniform(seed, position)
    alone = torch.cat([philox_uniform(seed[i : i + 1], position[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone)
    assert len(set(together.tolist())) == 4


def test_random_numbers_are_uniform() -> None:
    numbers = philox_uniform(torch.full((100_000,), 11), torch.arange(100_000))
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    chi_square = ((counts - 5000) ** 2 / 5000).sum().item()
    assert chi_square < 44.0  # 19 degrees of freedom, p = 0.001


def test_tokens_follow_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    frequency = torch.bincount(draw(logits, 50_000, temperature=0.7), minlength=4) / 50_000
    expected = torch.softmax(logits[0] / 0.7, dim=-1)
    assert torch.allclose(frequency, expected, atol=0.01)


def test_temperature_zero_takes_the_largest() -> None:
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(1))
    zeros = torch.zeros(5, dtype=torch.int64)
    tokens = sample(logits, torch.zeros(5), None, None, None, zeros, zeros)
    assert torch.equal(tokens, logits.argmax(-1))


def kept_tokens(
    probs: list[float], top_k: int | None, top_p: float | None, min_p: float | None
) -> set[int]:
    """What the filters keep, by the definition in words."""
    kept = set(range(len(probs)))
    if min_p is not None:
        kept = {i for i in kept if probs[i] >= min_p * max(probs)}
    if top_k:
        ordered = sorted((probs[i] for i in kept), reverse=True)
        smallest = ordered[min(top_k, len(ordered)) - 1]
        kept = {i for i in kept if probs[i] >= smallest}
    if top_p is not None:
        mass, total = 0.0, sum(probs[i] for i in kept)
        for i in sorted(kept, key=lambda i: -probs[i]):
            smallest = probs[i]
            mass += probs[i]
            if mass >= top_p * total:
                break
        kept = {i for i in kept if probs[i] >= smallest}
    return kept


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-8, 8), min_size=2, max_size=24),
    top_k=st.none() | st.integers(0, 30),
    top_p=st.none() | st.sampled_from([0.1, 0.45, 0.83, 0.97]),
    min_p=st.none() | st.sampled_from([0.0, 0.03, 0.3, 1.0]),
)
def test_only_kept_tokens_are_drawn(
    logits: list[int], top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    row = torch.tensor([logits]) * 0.37
    kept = kept_tokens(torch.softmax(row[0], -1).tolist(), top_k, top_p, min_p)
    drawn = set(draw(row, 400, top_k=top_k, top_p=top_p, min_p=min_p).tolist())
    assert drawn <= kept


@pytest.mark.parametrize("parameters", [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.2}])
def test_every_kept_token_is_drawn(parameters: dict[str, float]) -> None:
    logits = torch.tensor([[1.0, 0.5, 0.2, -3.0, -9.0]])
    probs = torch.softmax(logits[0], -1).tolist()
    expected = kept_tokens(
        probs,
        int(parameters["top_k"]) if "top_k" in parameters else None,
        parameters.get("top_p"),
        parameters.get("min_p"),
    )
    drawn = set(draw(logits, 2000, **parameters).tolist())  # type: ignore[arg-type]
    assert drawn == expected


def test_a_row_is_sampled_alike_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(16, 500, generator=generator) * 3
    temperature = torch.linspace(0.2, 1.8, 16)
    top_k = torch.arange(16, dtype=torch.int32)
    top_p = torch.linspace(0.3, 1.0, 16)
    seed, position = torch.arange(16) * 1000, torch.arange(16)
    whole = sample(logits, temperature, top_k, top_p, None, seed, position)
    for i in (0, 5, 15):
        row = slice(i, i + 1)
        alone = sample(
            logits[row], temperature[row], top_k[row], top_p[row], None, seed[row], position[row]
        )
        assert alone.item() == whole[i].item()


def test_penalties_follow_their_definitions() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    prompt = torch.tensor([[True, True, False, False]])
    counts = torch.tensor([[0, 0, 3, 0]], dtype=torch.int32)
    result = penalties(
        logits, prompt, counts, torch.tensor([2.0]), torch.tensor([0.1]), torch.tensor([0.4])
    )
    expected = torch.tensor([[1.0, -4.0, 0.5 - 0.3 - 0.4, 0.5]])
    assert torch.allclose(result, expected)


def test_logprobs_and_ranks() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]]))
    chosen, rank, ids, top = token_logprobs(logits, torch.tensor([2]), 2)
    assert chosen.item() == pytest.approx(math.log(0.3), abs=1e-6)
    assert rank.item() == 2
    assert ids.tolist() == [[1, 2]]
    assert top[0].tolist() == pytest.approx([math.log(0.6), math.log(0.3)], abs=1e-6)
