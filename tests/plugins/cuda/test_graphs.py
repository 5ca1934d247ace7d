"""Capturing and replaying on a real GPU."""

import pytest
import torch

from windlass.errors import PluginError
from windlass_cuda.graphs import graph_pool


def test_a_replay_works_on_the_tensors_of_the_capture(gpu: torch.device) -> None:
    pool = graph_pool(gpu)
    number, results = torch.ones(4, device=gpu), []

    def step() -> None:
        results[:] = [number * 2 + 1]
        number.add_(1)

    graph = pool.capture(step, key="step", warmup=1)
    assert graph.nodes == 3
    assert number.tolist() == [2.0] * 4  # the warm-up ran; what was captured did not
    graph.replay()
    graph.replay()
    assert number.tolist() == [4.0] * 4
    assert results[0].tolist() == [7.0] * 4
    assert pool.memory_bytes() > 0
    graph.close()


def test_graphs_share_memory(gpu: torch.device) -> None:
    pool = graph_pool(gpu)

    def step(rows: int) -> None:
        torch.zeros(rows, 1 << 20, device=gpu).add_(1)

    larger = pool.capture(lambda: step(64), key=64)
    taken = pool.memory_bytes()
    smaller = pool.capture(lambda: step(32), key=32)
    assert pool.memory_bytes() == taken
    for graph in (larger, smaller):
        graph.replay()
        graph.close()


def test_an_empty_capture_is_an_error(gpu: torch.device) -> None:
    with pytest.raises(PluginError, match="'nothing' is empty"):
        graph_pool(gpu).capture(lambda: None, key="nothing")


def test_a_pool_outlives_its_graphs(gpu: torch.device) -> None:
    pool, number = graph_pool(gpu), torch.zeros(1, device=gpu)
    for _ in range(3):
        graph = pool.capture(lambda: number.add_(1), key="step", warmup=0)
        graph.replay()
        graph.close()
    assert number.item() == 3.0


def test_what_waits_for_the_device_cannot_be_captured_and_harms_nothing(gpu: torch.device) -> None:
    pool, number = graph_pool(gpu), torch.zeros(1, device=gpu)
    with pytest.raises(RuntimeError, match="captur"):
        pool.capture(lambda: print(number.add_(1).item()), key="reads", warmup=0)
    assert torch.rand(4, device=gpu).isfinite().all()
    pool.capture(lambda: number.add_(1), key="step", warmup=0).replay()
    assert number.item() == 1.0
