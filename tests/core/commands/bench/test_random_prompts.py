"""Random prompts: the lengths asked for, ordinary tokens, the same for the same seed."""

from __future__ import annotations

import pytest

from windlass.commands.bench.random_prompts import PromptShape, random_prompts
from windlass.errors import ConfigError


def test_the_same_seed_makes_the_same_prompts() -> None:
    shape = PromptShape(input_len=9, output_len=3, range_ratio=0.5)
    first, again, other = (
        random_prompts(20, shape, vocab_size=500, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_lengths_are_exact_without_a_range() -> None:
    prompts = random_prompts(5, PromptShape(input_len=7, output_len=4), vocab_size=100)
    assert {len(prompt.token_ids) for prompt in prompts} == {7}
    assert {prompt.output_len for prompt in prompts} == {4}


def test_lengths_fill_their_range() -> None:
    shape = PromptShape(input_len=10, output_len=20, range_ratio=0.5)
    prompts = random_prompts(500, shape, vocab_size=100)
    lengths = {len(prompt.token_ids) for prompt in prompts}
    assert (min(lengths), max(lengths)) == (5, 15)
    output_lens = {prompt.output_len for prompt in prompts}
    assert (min(output_lens), max(output_lens)) == (10, 30)


def test_the_prefix_is_shared_and_comes_on_top() -> None:
    shape = PromptShape(input_len=8, output_len=1, prefix_len=16)
    first, second = random_prompts(2, shape, vocab_size=1000)
    assert len(first.token_ids) == 24
    assert first.token_ids[:16] == second.token_ids[:16]
    assert first.token_ids[16:] != second.token_ids[16:]


def test_special_tokens_are_never_drawn() -> None:
    shape = PromptShape(input_len=200, output_len=1)
    (prompt,) = random_prompts(1, shape, vocab_size=10, special_ids={0, 3, 9})
    assert set(prompt.token_ids) == {1, 2, 4, 5, 6, 7, 8}


@pytest.mark.parametrize(
    "wrong", [{"input_len": 0}, {"output_len": 0}, {"prefix_len": -1}, {"range_ratio": 1.0}]
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PromptShape(**{"input_len": 8, "output_len": 8, **wrong})  # type: ignore[arg-type]
