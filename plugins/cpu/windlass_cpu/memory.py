"""Host memory straight from the kernel, for packed weights and the KV cache.

Huge pages are asked for, wherever whole ones fit: streaming through them walks fewer page tables,
and their first touch takes less of the processor. When memory is fragmented the kernel may
compact it first, which takes seconds; so large caches are touched ahead of use, by `Prefault`.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
import threading
import time
from contextlib import suppress

import torch

from windlass.plugin.host_memory import host_memory
from windlass_cpu.library import load_library

logger = logging.getLogger(__name__)

HUGE_PAGE = 2 << 20
_CHUNK = 16 * HUGE_PAGE
_KEEP_FREE = 512 << 20
"""Bytes that others on the machine are left: touching ahead stops there, serving does not."""
_QUIET_SECONDS = 10.0
"""How long nothing must have run before memory is touched: longer than the longest step."""


def map_memory(nbytes: int, *, huge_pages: bool = True) -> torch.Tensor:
    """Zero-filled uint8 `[nbytes]` at a multiple of a huge page; untouched, it takes no memory.

    Raises:
        OSError: the system does not give that much address space.
    """
    pages = mmap.mmap(-1, nbytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(pages, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE
    filled = nbytes // HUGE_PAGE * HUGE_PAGE
    if hasattr(mmap, "MADV_HUGEPAGE") and filled:
        advice = mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE
        with suppress(OSError):  # a kernel without them: only a wish
            pages.madvise(advice, start, filled)
    return whole[start : start + nbytes]


def populate(memory: torch.Tensor, start: int, nbytes: int) -> bool:
    """Give `nbytes` of `memory` from `start` on real pages, contents as they are; False if there
    are none left."""
    touch = load_library().windlass_populate
    touch.argtypes, touch.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_int
    return bool(touch(memory.data_ptr() + start, nbytes) == 0)


def return_freed_memory() -> None:
    """Give the heap's free pages back to the system, where the C library can.

    Weights that were freed once they were packed leave holes of hundreds of megabytes.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))


class Prefault:
    """Touches every page of `memory` while the engine has nothing else to do.

    It lets an idle processor do what requests would otherwise wait for; starting waits for nothing,
    and a step, which needs every processor, is not disturbed. It ends early when the machine runs
    out of free memory.
    """

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._stopping = threading.Event()
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._run, name="windlass-prefault", daemon=True)
        self._thread.start()

    def postpone(self) -> None:
        """Leave the memory alone for a while: a step begins."""
        self._not_before = time.monotonic() + _QUIET_SECONDS

    def stop(self) -> None:
        """End it; the memory may be given back afterwards."""
        self._stopping.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until every page was touched."""
        self._thread.join()

    def _run(self) -> None:
        # Not the idle class: the thread may hold the lock of the process' memory map for a moment.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        for start in range(0, self._memory.nbytes, _CHUNK):
            nbytes = min(_CHUNK, self._memory.nbytes - start)
            while (left := self._not_before - time.monotonic()) > 0:
                if self._stopping.wait(left):
                    return
            if self._stopping.is_set():
                return
            if host_memory().available < _KEEP_FREE + nbytes:
                logger.warning("free memory is short: the KV cache is not touched ahead of use")
                return
            if not populate(self._memory, start, nbytes):
                return
