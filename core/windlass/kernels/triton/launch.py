"""What a launcher is told, and what the offline compiler is told, about one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a kernel is launched; every kernel adds its own tile sizes.

    The values belong to a chip, so they come from a plugin's tuning table: a kernel never asks
    which device it runs on. `options` go to Triton as they are (a vendor's own, such as
    `waves_per_eu`).
    """

    num_warps: int = 4
    num_stages: int = 2
    options: tuple[tuple[str, int], ...] = ()

    def launch_options(self) -> dict[str, int]:
        """Keyword arguments of a launch."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **dict(self.options)}


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """One kernel with the types and constants of one use, so that it can be compiled anywhere.

    `signature` maps each argument to Triton's name of its type ("*bf16", "i32", "fp32",
    "constexpr"), `constants` each constexpr to its value. Pointers are taken to be aligned to 16
    bytes, and the integers in `divisible` to be multiples of 16.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    config: LaunchConfig
    divisible: frozenset[str] = frozenset()
