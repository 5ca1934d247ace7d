"""Prompts of random tokens: every request has its own, and the same seed makes the same ones."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from windlass.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RandomPrompt:
    """One request of a benchmark; `output_len` is in tokens."""

    token_ids: list[int]
    output_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShape:
    """Lengths in tokens. A length varies evenly by `range_ratio` of itself, up and down.

    `prefix_len` tokens stand before the `input_len` own ones, the same in every prompt.
    """

    input_len: int
    output_len: int
    range_ratio: float = 0.0
    prefix_len: int = 0

    def __post_init__(self) -> None:
        if self.input_len < 1 or self.output_len < 1 or self.prefix_len < 0:
            raise ConfigError("input and output lengths must be at least 1, the prefix at least 0")
        if not 0 <= self.range_ratio < 1:
            raise ConfigError(f"range ratio must be in [0, 1), not {self.range_ratio}")


def random_prompts(
    count: int,
    shape: PromptShape,
    *,
    vocab_size: int,
    special_ids: Collection[int] = (),
    seed: int = 0,
) -> list[RandomPrompt]:
    """Make `count` prompts from ordinary tokens of the vocabulary."""
    generator = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(vocab_size), np.fromiter(special_ids, dtype=np.int64))
    prefix = generator.choice(ordinary, shape.prefix_len).tolist()
    input_lens = _lengths(generator, shape.input_len, shape.range_ratio, count)
    output_lens = _lengths(generator, shape.output_len, shape.range_ratio, count)
    return [
        RandomPrompt(prefix + generator.choice(ordinary, input_len).tolist(), output_len)
        for input_len, output_len in zip(input_lens, output_lens, strict=True)
    ]


def add_shape_arguments(
    parser: argparse.ArgumentParser, *, input_len: int, output_len: int
) -> None:
    """Add the options of random prompts, as `bench throughput` and `bench serve` share them."""
    group = parser.add_argument_group("random prompts")
    group.add_argument(
        "--dataset-name", choices=["random"], default="random", help="where prompts come from"
    )
    group.add_argument(
        "--random-input-len", type=int, default=input_len, metavar="TOKENS", help="prompt length"
    )
    group.add_argument(
        "--random-output-len", type=int, default=output_len, metavar="TOKENS", help="output length"
    )
    group.add_argument(
        "--random-range-ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="lengths vary evenly by this share, up and down (0 to below 1)",
    )
    group.add_argument(
        "--random-prefix-len",
        type=int,
        default=0,
        metavar="TOKENS",
        help="tokens that all prompts begin with, besides their own",
    )


def shape_from(args: argparse.Namespace) -> PromptShape:
    """Read the options that `add_shape_arguments` added."""
    return PromptShape(
        input_len=args.random_input_len,
        output_len=args.random_output_len,
        range_ratio=args.random_range_ratio,
        prefix_len=args.random_prefix_len,
    )


def _lengths(generator: np.random.Generator, mean: int, ratio: float, count: int) -> list[int]:
    low = max(1, int(np.floor(mean * (1 - ratio))))
    high = max(low, int(np.ceil(mean * (1 + ratio))))
    lengths: list[int] = generator.integers(low, high, size=count, endpoint=True).tolist()
    return lengths
