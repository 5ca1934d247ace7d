"""The kernel library: found beside this file, loaded after torch, called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

ISA_NAMES = ("scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx")
"""Instruction-set levels in the order of `csrc/isa.h`."""

LIBRARY = Path(__file__).with_name("_kernels.so")


@cache
def load_library() -> ctypes.CDLL:
    """Load the kernels, after torch, so that both share torch's OpenMP threads.

    Raises:
        OSError: the library was not built, or does not fit this machine.
    """
    import torch  # noqa: F401 - its OpenMP runtime must be the one that is loaded

    return ctypes.CDLL(str(LIBRARY))


def best_isa() -> str:
    """The highest instruction-set level of this processor."""
    return ISA_NAMES[load_library().windlass_best_isa()]


def force_isa(name: str) -> None:
    """Make every kernel use one level, for tests.

    Raises:
        ValueError: the processor lacks it.
    """
    if load_library().windlass_force_isa(ISA_NAMES.index(name)) != 0:
        raise ValueError(f"this processor has no {name}: its best level is {best_isa()}")
