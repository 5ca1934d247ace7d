"""Capturing graphs through a device's module, here one that writes down what it is asked."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from windlass.backend.accelerator_graphs import AcceleratorGraphPool
from windlass.errors import OutOfMemoryError, PluginError

DEVICE = torch.device("cpu", 0)


class RecordingDevice:
    """A module of torch with one graph class; work counts itself while it is captured."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reserved = 0
        self.captured: int | None = None
        self.handles = count()
        self.module = SimpleNamespace(
            graph_pool_handle=lambda: f"pool {next(self.handles)}",
            Stream=lambda device: self.stream("own"),
            current_stream=lambda device: self.stream("current"),
            stream=lambda stream: nullcontext(),
            memory_reserved=lambda device: self.reserved,
        )

    def stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            wait_stream=lambda other: self.calls.append(f"{name} waits"),
            synchronize=lambda: self.calls.append("synchronize"),
        )

    def graph(self, *, keep_graph: bool) -> SimpleNamespace:
        assert keep_graph

        def begin(**arguments: object) -> None:
            self.calls.append(f"begin {arguments}")
            self.captured = 0

        def note(name: str) -> object:
            return lambda: self.calls.append(name)

        return SimpleNamespace(
            capture_begin=begin,
            capture_end=note("end"),
            instantiate=note("instantiate"),
            replay=note("replay"),
            reset=note("reset"),
        )

    def work(self) -> None:
        self.calls.append("work")
        if self.captured is not None:
            self.captured += 1
            self.reserved += 100

    def pool(self) -> AcceleratorGraphPool:
        return AcceleratorGraphPool(
            DEVICE,
            module=self.module,
            graph_class=self.graph,
            count_nodes=lambda graph: self.captured,
            capture_arguments={"mode": "thread"},
        )


def test_a_step_is_warmed_up_and_then_recorded_on_the_pools_stream() -> None:
    device = RecordingDevice()
    pool = device.pool()
    graph = pool.capture(device.work, key=4, warmup=2)
    graph.replay()
    graph.close()
    assert device.calls == [
        "own waits",
        "work",
        "work",
        "synchronize",
        "begin {'pool': 'pool 0', 'mode': 'thread'}",
        "work",
        "end",
        "current waits",
        "instantiate",
        "replay",
        "reset",
    ]
    assert graph.nodes == 1
    assert pool.memory_bytes() == 100


def test_an_empty_graph_is_an_error() -> None:
    with pytest.raises(PluginError, match="the graph 'empty' is empty"):
        RecordingDevice().pool().capture(lambda: None, key="empty")


def test_a_capture_that_fails_is_ended_and_a_whole_one_follows() -> None:
    """Without it torch's random generators would go on recording."""
    device = RecordingDevice()

    def step() -> None:
        if device.captured is not None:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(OutOfMemoryError, match=r"the graph 8: lower .* \(no room\)"):
        device.pool().capture(step, key=8)
    assert device.calls[-4:] == [
        "begin {'pool': 'pool 0', 'mode': 'thread'}",
        "end",
        "begin {'pool': 'pool 1', 'mode': 'thread'}",
        "end",
    ]


def test_graphs_that_live_share_a_pool_and_the_next_after_them_gets_a_new_one() -> None:
    """Torch gives a pool up with its last graph, and captures into it no more."""
    device = RecordingDevice()
    pool = device.pool()
    graphs = [pool.capture(device.work, key=size) for size in (8, 4)]
    for graph in graphs:
        graph.close()
    pool.capture(device.work, key=8)
    begun = [call for call in device.calls if call.startswith("begin")]
    assert [call.split("'")[3] for call in begun] == ["pool 0", "pool 0", "pool 1"]


def test_a_device_that_cannot_count_captures_what_it_is_given() -> None:
    device = RecordingDevice()
    pool = AcceleratorGraphPool(
        DEVICE, module=device.module, graph_class=device.graph, count_nodes=lambda graph: None
    )
    assert pool.capture(lambda: None, key=1).nodes is None
