"""Tiles of the grouped products of experts, by architecture and tokens per expert."""

from __future__ import annotations

from windlass.backend.triton.expert_tiles import ExpertTiles, product

_MANY = float("inf")

_LARGE: tuple[ExpertTiles, ...] = (
    ExpertTiles(0, 16, product(32, 128, 4, 4), product(32, 128, 4, 4)),
    ExpertTiles(6, 16, product(64, 64, 4, 4, swap=True), product(64, 128, 4, 3, swap=True)),
    ExpertTiles(20, 32, product(64, 64, 4, 4, swap=True), product(64, 128, 4, 3, swap=True)),
    ExpertTiles(48, 64, product(64, 64, 4, 4), product(128, 64, 4, 4)),
    ExpertTiles(_MANY, 128, product(128, 64, 8, 3), product(128, 64, 8, 4)),
)
"""Where a program has 227 KiB of shared memory and matrix units that read it (9.0, 10.0)."""
_SMALL: tuple[ExpertTiles, ...] = (
    ExpertTiles(0, 16, product(32, 128, 4, 4), product(32, 128, 4, 4)),
    ExpertTiles(6, 16, product(32, 128, 4, 4), product(64, 64, 4, 4)),
    ExpertTiles(20, 32, product(32, 64, 4, 4), product(64, 64, 4, 4)),
    ExpertTiles(48, 64, product(64, 64, 4, 3), product(128, 64, 4, 3)),
    ExpertTiles(_MANY, 128, product(64, 64, 8, 3), product(128, 64, 8, 3)),
)
"""For 99 KiB, which every other architecture has."""


def tiles_of(arch: str) -> tuple[ExpertTiles, ...]:
    """The tiles of 16-bit experts on `arch` ("sm_90")."""
    return _LARGE if arch in ("sm_90", "sm_100", "sm_103") else _SMALL
