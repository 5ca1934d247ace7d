"""The ops on this process's GPU: what the op providers name."""

from __future__ import annotations

from functools import cache

from windlass.backend.triton.ops import TritonOps
from windlass_rocm.device import tuning_of


def __getattr__(name: str) -> TritonOps:
    """`OPS`, made for the current GPU when a provider is first loaded."""
    if name != "OPS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _ops()


@cache
def _ops() -> TritonOps:
    return TritonOps(tuning_of())
