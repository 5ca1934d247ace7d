"""KV memory on the host costs nothing until it is used, and is bounded by default."""

from pathlib import Path

import pytest
import torch

from windlass.backend import BackendConfig
from windlass.errors import OutOfMemoryError
from windlass_cpu.backend import CpuBackend
from windlass_cpu.plugin import SPEC


@pytest.fixture
def backend() -> CpuBackend:
    return CpuBackend(SPEC, BackendConfig())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_reserving_takes_no_memory_until_it_is_touched(backend: CpuBackend) -> None:
    before = resident_bytes()
    buffer = backend.allocator.reserve(1 << 30, tag="kv_cache")
    assert resident_bytes() - before < 64 << 20
    buffer[512 << 20 :].fill_(7)
    assert resident_bytes() - before > 400 << 20
    assert not buffer[: 1 << 20].any()
    del buffer
    backend.allocator.release("kv_cache")
    assert resident_bytes() - before < 64 << 20


def test_a_reservation_is_aligned(backend: CpuBackend) -> None:
    buffer = backend.allocator.reserve(1000, align=4096, tag="a")
    assert buffer.data_ptr() % 4096 == 0
    assert buffer.dtype == torch.uint8


def test_what_no_machine_has_is_refused_with_the_bytes(backend: CpuBackend) -> None:
    with pytest.raises(OutOfMemoryError, match="GiB are free"):
        backend.allocator.reserve(1 << 60, tag="kv_cache")
