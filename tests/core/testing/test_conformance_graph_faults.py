"""Faults planted in the graphs of the fake accelerator: level L5 catches every one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import pytest
import torch

from windlass.backend import (
    AttentionBatch,
    Capabilities,
    Graph,
    KVPool,
    OpRegistry,
    TorchAttention,
)
from windlass.kernels import reference
from windlass.kernels.step import begin_decode, next_tokens
from windlass.plugin import OpProvider
from windlass.testing.conformance.cases import Outcome, check_all
from windlass.testing.conformance.graphs import graph_cases
from windlass.testing.fake.backend import FakeBackend
from windlass.testing.fake.device import FakeDevice, FakeGraph, FakeGraphPool


class Float32Backend(FakeBackend):
    """Without the checks of the KV cache: here the kit must see the fault by itself."""

    default_capabilities = replace(
        FakeBackend.default_capabilities or Capabilities(), dtypes=(torch.float32,)
    )

    def __init__(self) -> None:
        super().__init__()
        self.attention = TorchAttention()
        self.machine.haste = 1.0


def outcome(backend: FakeBackend, case: str) -> Outcome:
    """How the case with this name ends."""
    torch.set_num_threads(1)
    cases = [found for found in graph_cases(backend) if found.name.startswith(case)]
    (ended,) = check_all("L5", cases)
    return ended


# Graphs


class FaultyPool(FakeGraphPool):
    """A pool that is right, for others to be wrong in one thing."""

    def recorded(self, fn: Callable[[], None], key: Hashable, warmup: int) -> FakeGraph:
        graph = super().capture(fn, key=key, warmup=warmup)
        assert isinstance(graph, FakeGraph)
        return graph


class EmptyIsFine(FaultyPool):
    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        def never_empty() -> None:
            self._machine.enqueue("nothing", lambda: None)
            fn()

        return super().capture(never_empty, key=key, warmup=warmup)


class CallsAgain(FaultyPool):
    """No graph at all."""

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = self.recorded(fn, key, warmup)
        graph.replay = fn  # type: ignore[method-assign]
        return graph


class LastCaptureWins(FaultyPool):
    """All graphs of the pool are the one that was captured last."""

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = self.recorded(fn, key, warmup)
        for other in self.graphs.values():
            other._recording = graph._recording
        return graph


class LosesTheLastOperation(FaultyPool):
    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = self.recorded(fn, key, warmup)
        assert graph._recording is not None
        graph._recording.work.pop()
        return graph


class FirstReplayOnly(FaultyPool):
    """Later launches are taken for the one before."""

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = self.recorded(fn, key, warmup)
        right = graph.replay
        graph.replay = lambda: None if graph.replays else right()  # type: ignore[method-assign]
        return graph


class NeverCloses(FaultyPool):
    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = self.recorded(fn, key, warmup)
        graph.close = lambda: None  # type: ignore[method-assign]
        return graph


class UntypedOutOfMemory(FaultyPool):
    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        fn()
        return super().capture(fn, key=key, warmup=warmup)


POOLS: dict[type[FakeGraphPool], str] = {
    EmptyIsFine: "an empty capture",
    CallsAgain: "a replay runs no Python",
    LastCaptureWins: "several sizes",
    LosesTheLastOperation: "replays in turn",
    FirstReplayOnly: "replays in turn",
    NeverCloses: "closing a graph",
    UntypedOutOfMemory: "a capture without memory",
}


@pytest.mark.parametrize("fault", POOLS, ids=lambda fault: fault.__name__)
def test_a_fault_in_graphs_is_caught(
    fault: type[FakeGraphPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Float32Backend()
    monkeypatch.setattr(FakeDevice, "graph_pool", lambda self: fault(self.machine))
    assert outcome(backend, POOLS[fault]).status == "failed"


# What is captured


class LengthsBaked(TorchAttention):
    """The lengths of the capture, as numbers that the host knew."""

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        if capture:
            batch = replace(batch, seq_lens=torch.ones_like(batch.seq_lens))
        return super().plan(batch, pool, capture=capture)


class PaddingIsWritten(TorchAttention):
    """-1 is an index of Python's."""

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        count = pool.num_blocks * pool.block_size
        super().write_kv(pool, layer, key, value, slot_mapping % count)


class TablesOfTheCapture(TorchAttention):
    """Plans over a copy of the block tables that no replay renews."""

    def __init__(self) -> None:
        self._tables: dict[int, torch.Tensor] = {}

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        if capture:
            rows = len(batch.seq_lens_cpu)
            if rows not in self._tables:
                self._tables[rows] = batch.block_table.clone()
            batch = replace(batch, block_table=self._tables[rows])
        return super().plan(batch, pool, capture=capture)


ATTENTIONS: dict[type[TorchAttention], str] = {
    LengthsBaked: "the plan is made again in the graph",
    TablesOfTheCapture: "replays see changed inputs",
    PaddingIsWritten: "padding",
}


@pytest.mark.parametrize("fault", ATTENTIONS, ids=lambda fault: fault.__name__)
def test_a_fault_in_captured_attention_is_caught(fault: type[TorchAttention]) -> None:
    backend = Float32Backend()
    backend.attention = fault()
    assert outcome(backend, ATTENTIONS[fault]).status == "failed"


def temperatures_of_the_capture(logits: Any, rows: Any, *table: Any) -> Any:
    last_token, position, temperature, *rest = table
    if temperature.machine.is_capturing:
        temperature = torch.zeros_like(temperature)
    return next_tokens(logits, rows, last_token, position, temperature, *rest)


def tokens_of_the_host(rows: Any, last_token: Any, *rest: Any) -> Any:
    """Reads where it may not."""
    tokens, *others = begin_decode(rows, last_token, *rest)
    return (torch.full_like(tokens, int(tokens[0])), *others)


OPS = {temperatures_of_the_capture: "next_tokens", tokens_of_the_host: "begin_decode"}


@pytest.mark.parametrize("fault", OPS, ids=lambda fault: fault.__name__)
def test_a_fault_in_a_captured_op_is_caught(
    fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Float32Backend()
    monkeypatch.setattr(reference, "planted_fault", fault, raising=False)
    planted = OpProvider(
        op=OPS[fault], name="own", target="windlass.kernels.reference:planted_fault"
    )
    backend.ops = OpRegistry(reference.REFERENCES, [planted])
    assert outcome(backend, "replays see changed inputs").status == "failed"


@pytest.mark.parametrize(
    "case", sorted({*POOLS.values(), *ATTENTIONS.values(), "replays see changed inputs"})
)
def test_graphs_without_a_fault_pass(case: str) -> None:
    ended = outcome(Float32Backend(), case)
    assert (ended.status, ended.reason) == ("passed", "")
