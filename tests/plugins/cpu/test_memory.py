"""Mapped memory: aligned, empty until touched, and touched ahead of use where that is asked."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest
import torch

from windlass.backend import BackendConfig
from windlass.plugin.host_memory import HostMemory
from windlass_cpu import memory as memory_module
from windlass_cpu.backend import CpuBackend, _use_threads
from windlass_cpu.built import library_path
from windlass_cpu.memory import (
    HUGE_PAGE,
    Prefault,
    map_memory,
    populate,
    return_freed_memory,
)
from windlass_cpu.plugin import SPEC

MIB = 1 << 20
needs_library = pytest.mark.skipif(library_path() is None, reason="the library is not built")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("nbytes", [1, 5000, HUGE_PAGE, 3 * HUGE_PAGE + 100])
@pytest.mark.parametrize("huge_pages", [False, True])
def test_memory_is_zero_and_starts_at_a_huge_page(nbytes: int, huge_pages: bool) -> None:
    memory = map_memory(nbytes, huge_pages=huge_pages)
    assert (memory.dtype, memory.nbytes) == (torch.uint8, nbytes)
    assert memory.data_ptr() % HUGE_PAGE == 0
    assert not memory.any()
    memory.fill_(1)


@needs_library
def test_populating_takes_pages_and_keeps_what_is_there() -> None:
    memory = map_memory(100 * MIB)
    memory[5] = 7
    before = resident_bytes()
    assert populate(memory, 0, 50 * MIB)
    assert 40 * MIB < resident_bytes() - before < 60 * MIB
    assert memory[5] == 7


@needs_library
def test_a_prefault_touches_every_page() -> None:
    memory = map_memory(100 * MIB)
    before = resident_bytes()
    Prefault(memory).wait()
    assert resident_bytes() - before > 90 * MIB
    assert not memory.any()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_loading_freed_goes_back_to_the_system() -> None:
    blocks = [torch.ones(16 << 10) for _ in range(2000)]  # 64 KiB each: too small to be mapped
    kept = blocks[-1]
    del blocks
    before = resident_bytes()
    return_freed_memory()
    assert resident_bytes() < before - 60 * MIB
    assert kept.sum() == 16 << 10


@needs_library
def test_a_postponed_prefault_leaves_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = threading.Event()
    planned = threading.Event()

    def touch(*_: object) -> bool:
        touched.set()
        return planned.wait(10)

    monkeypatch.setattr(memory_module, "populate", touch)
    prefault = Prefault(map_memory(64 * HUGE_PAGE))
    assert touched.wait(10)
    prefault.postpone()
    touched.clear()
    planned.set()
    assert not touched.wait(0.1)
    prefault.stop()


def test_a_prefault_leaves_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    short = HostMemory(total=1 << 30, available=100 * MIB)
    monkeypatch.setattr("windlass_cpu.memory.host_memory", lambda: short)
    memory = map_memory(100 * MIB)
    before = resident_bytes()
    Prefault(memory).wait()
    assert resident_bytes() - before < 10 * MIB


@needs_library
def test_a_released_cache_is_given_back_though_it_is_being_touched() -> None:
    backend = CpuBackend(SPEC, BackendConfig())
    before = resident_bytes()
    backend.allocator.reserve(512 * MIB, tag="kv_cache")
    backend.warmup(weight_bytes=1 << 30)
    backend.allocator.release("kv_cache")
    assert resident_bytes() - before < 64 * MIB


def test_the_cache_of_a_small_model_is_not_touched() -> None:
    threads = torch.get_num_threads()
    backend = CpuBackend(SPEC, BackendConfig())
    backend.allocator.reserve(128 * MIB, tag="kv_cache")
    before = resident_bytes()
    backend.warmup(weight_bytes=7_000_000)
    _use_threads(threads)
    assert resident_bytes() - before < 16 * MIB
