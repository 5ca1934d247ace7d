"""The CPU backend: a head-major cache, and threads where they pay."""

from collections.abc import Iterator

import pytest
import torch

from windlass.backend import BackendConfig, KVSpec
from windlass_cpu.backend import CpuBackend
from windlass_cpu.library import num_threads, set_threads
from windlass_cpu.plugin import SPEC


@pytest.fixture
def backend() -> Iterator[CpuBackend]:
    threads = torch.get_num_threads()
    yield CpuBackend(SPEC, BackendConfig())
    torch.set_num_threads(threads)
    set_threads(threads)


def test_a_heads_tokens_lie_side_by_side(backend: CpuBackend) -> None:
    spec = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.bfloat16)
    (layout,) = backend.kv_layouts(spec)
    assert (layout.order, layout.block_size) == ("LBHNC", 32)


def test_a_small_model_runs_on_one_thread(backend: CpuBackend) -> None:
    torch.set_num_threads(2)
    backend.warmup(weight_bytes=7_000_000)
    assert torch.get_num_threads() == 1
    assert num_threads() == 1


def test_a_large_model_keeps_every_thread(backend: CpuBackend) -> None:
    torch.set_num_threads(2)
    backend.warmup(weight_bytes=1_000_000_000)
    assert torch.get_num_threads() == 2
