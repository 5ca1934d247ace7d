"""Tiles of the grouped products of experts, by architecture and tokens per expert."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from windlass.kernels.triton.grouped_linear import ExpertsConfig, GroupedConfig
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.routing import RouteConfig
from windlass_cuda.overlap import overlap

UNPLANNED_TOKENS = 16
"""So many tokens make one tile for each expert, which a program finds without a plan."""

_ROUTE = RouteConfig(tokens=4, num_warps=4)
_PLAN = RowConfig(block=1024, num_warps=4)
_TOTAL = RowConfig(block=512, num_warps=4)


def _product(n: int, k: int, warps: int, stages: int, swap: bool = False) -> GroupedConfig:
    return GroupedConfig(block_n=n, block_k=k, num_warps=warps, num_stages=stages, swap=swap)


_Row = tuple[float, int, GroupedConfig, GroupedConfig]
_INFINITY = float("inf")

# Up to so many tokens an expert: rows of a tile, first and second product. Without a plan first.
_LARGE: tuple[_Row, ...] = (
    (0, 16, _product(32, 128, 4, 4), _product(32, 128, 4, 4)),
    (6, 16, _product(64, 64, 4, 4, swap=True), _product(64, 128, 4, 3, swap=True)),
    (20, 32, _product(64, 64, 4, 4, swap=True), _product(64, 128, 4, 3, swap=True)),
    (48, 64, _product(64, 64, 4, 4), _product(128, 64, 4, 4)),
    (_INFINITY, 128, _product(128, 64, 8, 3), _product(128, 64, 8, 4)),
)
"""Where a program has 227 KiB of shared memory and matrix units that read it (9.0, 10.0)."""
_SMALL: tuple[_Row, ...] = (
    (0, 16, _product(32, 128, 4, 4), _product(32, 128, 4, 4)),
    (6, 16, _product(32, 128, 4, 4), _product(64, 64, 4, 4)),
    (20, 32, _product(32, 64, 4, 4), _product(64, 64, 4, 4)),
    (48, 64, _product(64, 64, 4, 3), _product(128, 64, 4, 3)),
    (_INFINITY, 128, _product(64, 64, 8, 3), _product(128, 64, 8, 3)),
)
"""For 99 KiB, which every other architecture has."""

_FLOAT32: tuple[_Row, ...] = (
    (0, 16, _product(32, 32, 4, 2), _product(32, 32, 4, 2)),
    (_INFINITY, 32, _product(32, 32, 4, 2), _product(32, 32, 4, 2)),
)
"""Without matrix units, which would round the factors."""


def _table(arch: str, itemsize: int) -> tuple[_Row, ...]:
    if itemsize == 4:
        return _FLOAT32
    return _LARGE if arch in ("sm_90", "sm_100", "sm_103") else _SMALL


@cache
def route_config(arch: str) -> RouteConfig:
    """For the op `route_experts` on `arch` ("sm_90")."""
    return replace(_ROUTE, **overlap(arch))


@cache
def expert_configs(arch: str, itemsize: int = 2) -> tuple[ExpertsConfig, ...]:
    """All that `choose` takes on `arch`: the one without a plan, then by tokens an expert.

    `itemsize` is that of the model's dtype, in bytes.
    """
    overlapped = overlap(arch)
    return tuple(
        ExpertsConfig(
            block_m=block_m,
            plan=replace(_PLAN, **overlapped) if most else None,
            gate_up=replace(gate_up, **overlapped),
            down=replace(down, **overlapped),
            total=replace(_TOTAL, **overlapped),
        )
        for most, block_m, gate_up, down in _table(arch, itemsize)
    )


def choose(
    arch: str, tokens: int, top_k: int, num_experts: int, itemsize: int = 2
) -> ExpertsConfig:
    """The kernels' tiles for `tokens` on `arch`, each of which goes to `top_k` experts."""
    configs = expert_configs(arch, itemsize)
    if tokens <= UNPLANNED_TOKENS:
        return configs[0]
    mean = tokens * top_k / num_experts
    return next(
        config
        for config, (most, *_) in zip(configs[1:], _table(arch, itemsize)[1:], strict=True)
        if mean <= most
    )
