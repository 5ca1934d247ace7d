"""Entries of a chip's tables for attention, up to so many channels each."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton

from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig


class DecodeTiles(NamedTuple):
    """Fields of a `DecodeConfig`, by their order in the tables."""

    tile: int
    num_warps: int
    num_stages: int
    programs_per_unit: int
    minimum_run: int = 2
    chunk: int = 0

    def config(self, arguments: LaunchArguments, **fields: Any) -> DecodeConfig:  # noqa: ANN401
        """The entry with the `arguments` of every launch, and what else a chip sets."""
        return DecodeConfig(**self._asdict(), **arguments, **fields)


class PrefillTiles(NamedTuple):
    """Fields of a `PrefillConfig`, by their order in the tables."""

    query_rows: int
    tile: int
    num_warps: int
    num_stages: int
    chunk: int = 0

    def config(self, group: int, arguments: LaunchArguments) -> PrefillConfig:
        """The entry for `group` query heads to one of keys: a token's heads stay in one tile."""
        rows = max(self.query_rows, triton.next_power_of_2(group))
        return PrefillConfig(**self._replace(query_rows=rows)._asdict(), **arguments)
