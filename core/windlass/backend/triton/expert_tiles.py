"""Rules for the tiles of the grouped products of experts: by tokens per expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from windlass.backend.triton.launch_arguments import LaunchArguments, added
from windlass.kernels.triton.grouped_linear import ExpertsConfig, GroupedConfig
from windlass.kernels.triton.launch import RowConfig

UNPLANNED_TOKENS = 16
"""So many tokens make one tile for each expert, which a program finds without a plan."""

_PLAN = RowConfig(block=1024, num_warps=4)
_TOTAL = RowConfig(block=512, num_warps=4)


class ExpertTiles(NamedTuple):
    """Up to `most` tokens an expert: `block_m` rows of a tile, the first and second product.

    The first of a table, with `most` 0, serves `UNPLANNED_TOKENS` tokens at most, without a plan;
    the last has an infinite `most`.
    """

    most: float
    block_m: int
    gate_up: GroupedConfig
    down: GroupedConfig


class ExpertChoice(NamedTuple):
    """The kernels' configuration for up to `most` tokens an expert."""

    most: float
    config: ExpertsConfig


def product(n: int, k: int, warps: int, stages: int, swap: bool = False) -> GroupedConfig:
    """A grouped product of `n` outputs by `k` inputs at a time."""
    return GroupedConfig(block_n=n, block_k=k, num_warps=warps, num_stages=stages, swap=swap)


SMALL_TILES = (
    ExpertTiles(0, 16, product(32, 64, 4, 2), product(32, 64, 4, 2)),
    ExpertTiles(6, 16, product(32, 64, 4, 2), product(64, 64, 4, 2)),
    ExpertTiles(20, 32, product(32, 64, 4, 2), product(64, 64, 4, 2)),
    ExpertTiles(48, 64, product(64, 32, 4, 2), product(64, 64, 4, 2)),
    ExpertTiles(float("inf"), 128, product(64, 32, 8, 2), product(64, 32, 8, 2)),
)
"""For chips without a table: 48 KiB of shared memory at most."""
FLOAT32_TILES = (
    ExpertTiles(0, 16, product(32, 32, 4, 2), product(32, 32, 4, 2)),
    ExpertTiles(float("inf"), 32, product(32, 32, 4, 2), product(32, 32, 4, 2)),
)
"""Without matrix instructions, which would round the factors."""


def expert_choice(tiles: ExpertTiles, arguments: LaunchArguments) -> ExpertChoice:
    """`tiles` as the kernels take them, with the `arguments` of every launch."""
    config = ExpertsConfig(
        block_m=tiles.block_m,
        plan=added(_PLAN, arguments) if tiles.most else None,
        gate_up=added(tiles.gate_up, arguments),
        down=added(tiles.down, arguments),
        total=added(_TOTAL, arguments),
    )
    return ExpertChoice(tiles.most, config)


def choose(
    choices: Sequence[ExpertChoice], tokens: int, top_k: int, num_experts: int
) -> ExpertsConfig:
    """The configuration for `tokens`, each of which goes to `top_k` experts."""
    if tokens <= UNPLANNED_TOKENS:
        return choices[0].config
    mean = tokens * top_k / num_experts
    return next(choice.config for choice in choices[1:] if mean <= choice.most)
