"""The kernel library: found beside this file, loaded after torch, called through ctypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from windlass.errors import OutOfMemoryError
from windlass_cpu.built import library_path

ISA_NAMES = ("scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx")
"""Instruction-set levels in the order of `csrc/isa.h`."""

_OUT_OF_MEMORY = -2
"""`kOutOfMemory` of `csrc/entry.h`."""


@cache
def load_library() -> ctypes.CDLL:
    """Load the kernels, to run on as many threads as torch has now.

    Raises:
        OSError: the library was not built, or does not fit this machine.
    """
    path = library_path()
    if path is None:
        raise OSError("the C++ kernels were not built: install a C++ compiler, then reinstall")
    import torch

    library = ctypes.CDLL(path)
    _set_threads(library, torch.get_num_threads())
    return library


def declare(
    library: ctypes.CDLL,
    name: str,
    *arguments: Any,  # noqa: ANN401 - types of ctypes
    result: Any = ctypes.c_int,  # noqa: ANN401
) -> Callable[..., Any]:
    """The function `name` of the library, with the types of its arguments and its result.

    It raises `OutOfMemoryError` where it finds no memory to work in. What it should have written
    is then undefined; the library can be used as before.
    """
    function = getattr(library, name)
    function.argtypes, function.restype, function.errcheck = arguments, result, _check
    return function  # type: ignore[no-any-return]


def _check(result: int | None, function: Any, arguments: object) -> int:  # noqa: ANN401
    """The result, unless it tells that memory ran out: by a status, or as no address."""
    del arguments
    if result is None or result == _OUT_OF_MEMORY:
        raise OutOfMemoryError(
            f"{function.__name__}: the system gave the kernels no memory to work in; "
            "free some, or lower memory_utilization or max_num_batched_tokens"
        )
    return result


def set_threads(count: int) -> None:
    """Run kernels on `count` threads from now on, the calling one included.

    Raises:
        OutOfMemoryError: the system gives no more threads.
    """
    _set_threads(load_library(), count)


def num_threads() -> int:
    """Threads that kernels run on."""
    count: int = declare(load_library(), "windlass_num_threads")()
    return count


def _set_threads(library: ctypes.CDLL, count: int) -> None:
    """Bind every thread but the caller's to a processor, where there is one for each."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bound = (ctypes.c_int * count)(*processors) if count == len(processors) else None
    declare(library, "windlass_set_threads", ctypes.c_int, ctypes.c_void_p)(count, bound)


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
