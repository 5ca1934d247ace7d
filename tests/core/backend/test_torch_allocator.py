"""Reserving, sizing, copying, swapping and zeroing KV memory."""

import pytest
import torch

from windlass.backend import (
    KVLayout,
    KVPool,
    KVSpec,
    MemoryInfo,
    MemoryPolicy,
    Profile,
    TorchBackend,
)
from windlass.errors import OutOfMemoryError

SPEC = KVSpec(num_kv_heads=2, head_dim=4, dtype=torch.float32)
LAYOUT = KVLayout(order="LBHNC", block_size=2)


def make_pool(backend: TorchBackend, tag: str) -> KVPool:
    buffer = backend.allocator.reserve(6 * LAYOUT.block_bytes(SPEC, 2), tag=tag)
    pool = KVPool.carve(buffer, SPEC, LAYOUT, 2, 6)
    for view in (*pool.keys, *pool.values):
        view.copy_(torch.randn(view.shape))
    return pool


def test_a_reservation_is_aligned_zeroed_and_given_back(backend: TorchBackend) -> None:
    buffer = backend.allocator.reserve(1000, align=4096, tag="a")
    assert buffer.data_ptr() % 4096 == 0
    assert buffer.dtype == torch.uint8
    assert buffer.numel() == 1000
    assert not buffer.any()
    with pytest.raises(ValueError, match="'a' is already reserved"):
        backend.allocator.reserve(1, tag="a")
    backend.allocator.release("a")
    assert backend.allocator.reserve(1, tag="a").numel() == 1


def test_what_does_not_fit_names_the_bytes(backend: TorchBackend) -> None:
    with pytest.raises(OutOfMemoryError, match=r"1048576\.00 GiB for kv_cache .* GiB are free"):
        backend.allocator.reserve(1 << 50, tag="kv_cache")


def test_copy_reads_before_it_writes(backend: TorchBackend) -> None:
    pool = make_pool(backend, "pool")
    before = pool.keys[1].clone()
    backend.allocator.copy_blocks([pool], torch.tensor([[1, 2], [2, 1]]))
    assert torch.equal(pool.keys[1][[1, 2]], before[[2, 1]])
    assert torch.equal(pool.keys[1][3], before[3])


def test_zero_blocks_touches_only_them(backend: TorchBackend) -> None:
    pool = make_pool(backend, "pool")
    before = pool.values[0].clone()
    backend.allocator.zero_blocks([pool], torch.tensor([4]))
    assert not pool.values[0][4].any()
    assert not pool.keys[1][4].any()
    assert torch.equal(pool.values[0][:4], before[:4])


def test_swap_moves_blocks_between_pools(backend: TorchBackend) -> None:
    device, host = make_pool(backend, "device"), make_pool(backend, "host")
    stream = backend.device.stream()
    event = backend.allocator.swap(device, host, torch.tensor([[1, 5], [3, 2]]), stream)
    event.synchronize()
    assert event.query()
    for there, here in zip(device.keys + device.values, host.keys + host.values, strict=True):
        assert torch.equal(here[[5, 2]], there[[1, 3]])


def test_swap_copies_neighbours_whatever_their_order(backend: TorchBackend) -> None:
    device, host = make_pool(backend, "device"), make_pool(backend, "host")
    pairs = torch.tensor([[4, 1], [3, 5], [1, 3], [2, 4]])
    backend.allocator.swap(device, host, pairs, backend.device.stream()).synchronize()
    for there, here in zip(device.keys + device.values, host.keys + host.values, strict=True):
        assert torch.equal(here[pairs[:, 1]], there[pairs[:, 0]])


def test_the_budget_is_a_share_of_what_the_container_may_use(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryInfo(total=1000, free=900)
    monkeypatch.setattr(backend.device, "memory", lambda: memory)
    profile = Profile(weights=100, peak_activation=50)
    assert backend.allocator.kv_budget(profile, MemoryPolicy(utilization=0.5)) == 350
    capped = MemoryPolicy(utilization=0.5, cap_bytes=10)
    assert backend.allocator.kv_budget(profile, capped) == 10
    memory = MemoryInfo(total=1000, free=200)
    assert backend.allocator.kv_budget(profile, MemoryPolicy(utilization=0.5)) == 50


def test_without_statistics_the_step_is_not_run(backend: TorchBackend) -> None:
    def step() -> None:
        raise AssertionError("must not run")

    profile = backend.allocator.measure(step, weights=7, activation_estimate=9)
    assert (profile.weights, profile.peak_activation, profile.confidence) == (7, 9, "estimated")


def test_host_events_measure_time(backend: TorchBackend) -> None:
    first, second = backend.device.event(timing=True), backend.device.event(timing=True)
    first.record()
    with backend.device.use(backend.device.stream()) as _:
        second.record(backend.device.current_stream())
    assert first.elapsed_ms(second) >= 0
    assert backend.device.graph_pool() is None
