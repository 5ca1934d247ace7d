"""What a launcher is told, and what the offline compiler is told, about one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl  # noqa: F401 - the interpreter looks for it beside a kernel


@triton.jit
def no_wait():
    """Stands where a kernel may wait for the one before it: kernels run one after the other."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a kernel is launched; every kernel adds its own tile sizes.

    The values belong to a chip, so they come from a plugin's tuning table: a kernel never asks
    which device it runs on. `options` go to Triton as they are (a vendor's own, such as
    `waves_per_eu`).

    Where a chip can start a kernel before the one before it has ended, `wait` and `release` are
    its device functions for that, handed to the kernel as constants: a kernel calls `wait()`
    before it touches anything that an earlier kernel writes or reads (weights may be read before),
    and `release()` once the next kernel may start.
    """

    num_warps: int = 4
    num_stages: int = 2
    options: tuple[tuple[str, Any], ...] = ()
    wait: Any = field(default=no_wait, repr=False)
    release: Any = field(default=no_wait, repr=False)

    def launch_options(self) -> dict[str, Any]:
        """Keyword arguments of a launch."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **dict(self.options)}


@dataclass(frozen=True, kw_only=True)
class RowConfig(LaunchConfig):
    """Of a kernel over rows: `block`, a power of 2, is how many numbers a program takes at once."""

    block: int = 1024


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """One kernel with the types and constants of one use, so that it can be compiled anywhere.

    `signature` maps each argument to Triton's name of its type ("*bf16", "i32", "fp32",
    "constexpr"), `constants` each constexpr to its value. Pointers are taken to be aligned to 16
    bytes, and the integers in `divisible` to be multiples of 16. `expects` names what the compiled
    kernel must contain, in the words of `windlass.testing.offline`; a kernel whose registers do
    not suffice is an error unless `may_spill`.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    config: LaunchConfig
    divisible: frozenset[str] = frozenset()
    expects: frozenset[str] = frozenset()
    may_spill: bool = False
