"""The fake accelerator: late work, streams in any order, fixed addresses, what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from windlass.backend import BackendConfig
from windlass.errors import OutOfMemoryError, PluginError
from windlass.plugin import create_backend
from windlass.testing.fake import plugin
from windlass.testing.fake.backend import FakeBackend
from windlass.testing.fake.device import FakeGraph
from windlass.testing.fake.machine import FakeStepError
from windlass.testing.fake.tensor import FakeTensor
from windlass.testing.recorded_graph import HostReadError


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend()
    backend.machine.configure(haste=0.0)
    return backend


def calling(function: Callable[..., object], *args: object) -> Callable[[], None]:
    """A step that only calls `function`."""

    def step() -> None:
        function(*args)

    return step


def test_it_is_found_by_name_and_stands_beside_the_host() -> None:
    found = create_backend(BackendConfig(backend="fake"), extra={"fake": plugin})
    x = torch.arange(6.0)
    assert torch.equal((x.to(found.device.torch_device) * 2).cpu(), x * 2)
    assert create_backend(extra={"fake": plugin}).spec.name != "fake"


def test_nothing_runs_before_somebody_waits(backend: FakeBackend) -> None:
    device = backend.device.torch_device
    x = torch.ones(3, device=device)
    y = x + 1
    assert isinstance(y, FakeTensor)
    assert bool(y.place.isnan().all())
    assert y.tolist() == [2, 2, 2]


def test_a_download_holds_nothing_before_its_event(backend: FakeBackend) -> None:
    x = torch.full((3,), 7, device=backend.device.torch_device)
    host = torch.empty(3, dtype=torch.int64).copy_(x, non_blocking=True)
    event = backend.device.event()
    event.record()
    assert not event.query()
    assert host.tolist() == [-1, -1, -1]
    event.synchronize()
    assert host.tolist() == [7, 7, 7]


def test_page_locked_memory_is_read_late_and_other_memory_at_once(backend: FakeBackend) -> None:
    device = backend.device.torch_device
    locked = backend.allocator.host(2, pinned=True).fill_(1)
    plain = torch.ones(2, dtype=torch.uint8)
    late, now = (x.to(device, non_blocking=True) for x in (locked, plain))
    locked.fill_(9)
    plain.fill_(9)
    assert (late.tolist(), now.tolist()) == ([9, 9], [1, 1])


def _race(backend: FakeBackend, seed: int, waits: bool) -> list[float]:
    """What a second stream reads of what the first one writes."""
    device = backend.device
    backend.machine.configure(seed=seed, haste=0.0)
    x = torch.zeros(2, device=device.torch_device)
    device.synchronize()
    first, second = device.stream(), device.stream()
    with device.use(first):
        x += 3
        done = device.event()
        done.record()
    with device.use(second):
        if waits:
            second.wait_event(done)
        y = x * 2
    device.synchronize()
    result: list[float] = y.tolist()
    return result


def test_streams_run_in_any_order_that_events_allow(backend: FakeBackend) -> None:
    assert all(_race(backend, seed, waits=True) == [6, 6] for seed in range(8))
    seen = {tuple(_race(backend, seed, waits=False)) for seed in range(8)}
    assert seen == {(6, 6), (0, 0)}


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: x.fill_(float(x.max())),
    ],
)
def test_the_host_may_not_read_during_a_capture(
    backend: FakeBackend, read: Callable[[torch.Tensor], object]
) -> None:
    x = torch.ones(3, device=backend.device.torch_device)
    pool = backend.device.graph_pool()
    assert pool is not None
    with pytest.raises(HostReadError, match="during a capture"):
        pool.capture(calling(read, x), key="reads")
    with backend.machine.no_host_reads(), pytest.raises(HostReadError):
        read(x)
    pool.capture(calling(x.add_, 1), key="works").replay()
    assert x.tolist() == [4, 4, 4]


def test_a_replay_works_where_its_capture_did(backend: FakeBackend) -> None:
    device = backend.device
    pool = device.graph_pool()
    assert pool is not None
    x = torch.zeros(4, device=device.torch_device)
    outputs: list[torch.Tensor] = []
    graph = pool.capture(lambda: outputs.append(x * 2 + len(outputs)), key="double")
    assert (graph.nodes, len(outputs)) == (2, 3)
    for value in (5.0, 8.0):
        x.fill_(value)
        graph.replay()
        assert outputs[-1].tolist() == [2 * value + 2] * 4
    assert pool.memory_bytes() == 2 * x.nbytes
    graph.close()
    with pytest.raises(PluginError, match="closed"):
        graph.replay()


def test_a_graph_does_not_keep_what_it_did_not_make(backend: FakeBackend) -> None:
    pool = backend.device.graph_pool()
    assert pool is not None
    x = torch.zeros(4, device=backend.device.torch_device)

    def capture() -> FakeGraph:
        scale = torch.full((4,), 3.0, device=backend.device.torch_device)
        graph = pool.capture(calling(x.mul_, scale), key="scale")
        assert isinstance(graph, FakeGraph)
        graph.replay()
        return graph

    graph = capture()
    gc.collect()
    with pytest.raises(PluginError, match="freed after capture"):
        graph.replay()


def test_an_empty_capture_is_an_error(backend: FakeBackend) -> None:
    pool = backend.device.graph_pool()
    assert pool is not None
    with pytest.raises(PluginError, match="is empty"):
        pool.capture(lambda: None, key="nothing")


def test_a_tensor_of_the_host_is_on_another_device(backend: FakeBackend) -> None:
    x = torch.ones(3, device=backend.device.torch_device)
    with pytest.raises(RuntimeError, match="of the host"):
        torch.add(x, torch.ones(3))
    other = FakeBackend(config=BackendConfig(device_index=1))
    with pytest.raises(RuntimeError, match="privateuseone:1"):
        torch.add(x, torch.ones(3, device=other.device.torch_device))


def test_memory_is_counted_and_ends(backend: FakeBackend) -> None:
    gc.collect()
    before = backend.device.memory().allocated
    backend.machine.memory_bytes = before + 1000
    buffer = backend.allocator.reserve(512, align=64, tag="half")
    assert backend.device.memory().free == 1000 - 512 - 64
    with pytest.raises(OutOfMemoryError, match="GiB are free"):
        backend.allocator.reserve(500, tag="other")
    with pytest.raises(torch.OutOfMemoryError, match="424 of"):
        torch.empty(500, dtype=torch.uint8, device=backend.device.torch_device)
    backend.allocator.release("half")
    del buffer
    assert backend.device.memory().allocated == before


def test_a_failure_is_told_to_whoever_waits(backend: FakeBackend) -> None:
    device, machine = backend.device, backend.machine
    machine.fail(after=1)
    x = torch.zeros(2, device=device.torch_device)
    events = []
    for _ in range(2):
        machine.begin_step()
        x += 1
        events.append(device.event())
        events[-1].record()
    events[0].synchronize()
    assert x.place.tolist() == [1, 1]  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(FakeStepError, match="step 1 fails on the device"):
            events[1].synchronize()
    x += 1
    assert x.tolist() == [2, 2]
    machine.fail(after=0, at="launch")
    with pytest.raises(FakeStepError, match="at its launch"):
        machine.begin_step()
    machine.fail(after=0, at="memory")
    with pytest.raises(torch.OutOfMemoryError):
        machine.begin_step()
