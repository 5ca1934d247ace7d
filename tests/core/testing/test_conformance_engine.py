"""L4 catches faults that show only when an engine runs whole models, step after step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.backend import (
    AttentionBatch,
    BackendConfig,
    ExpertWeights,
    ForwardContext,
    Graph,
    GraphSupport,
    KVPool,
    LayerParts,
    LayersFunction,
    OpRegistry,
    TorchAttention,
    TorchBackend,
)
from windlass.kernels import reference
from windlass.layers.decoder_layer import DecoderLayer
from windlass.plugin import BackendSpec, OpProvider
from windlass.testing.conformance.cases import Outcome, check_all
from windlass.testing.conformance.engine import engine_cases
from windlass.testing.recorded_graph import RecordedGraphPool, RecordingDevice

SPEC = BackendSpec(name="faulty", target="", device_type="cpu", priority=1)
HOST = TorchBackend(SPEC, BackendConfig()).capabilities


class Float32Backend(TorchBackend):
    """Only float32, for speed: planted faults are not a matter of the dtype."""

    default_capabilities = replace(HOST, dtypes=(torch.float32,))


class GraphBackend(TorchBackend):
    """Captures decode steps, by recording them."""

    default_capabilities = replace(HOST, dtypes=(torch.float32,), graph=GraphSupport.DECODE_UNIFORM)

    def __init__(self, spec: BackendSpec, config: BackendConfig) -> None:
        super().__init__(spec, config)
        self.device = RecordingDevice()


def outcomes(
    make: Callable[..., TorchBackend], folder: Path, model: str, only: str = ""
) -> list[Outcome]:
    cases = engine_cases(partial(make, SPEC), folder, [model])
    return list(check_all("L4", (case for case in cases if only in case.name)))


def first_failure(make: Callable[..., TorchBackend], folder: Path, model: str) -> Outcome | None:
    cases = check_all("L4", engine_cases(partial(make, SPEC), folder, [model]))
    return next((outcome for outcome in cases if outcome.status == "failed"), None)


# Attention


class BlocksAreWrittenOnce(TorchAttention):
    """Takes a slot that was written before for a prefix that is there already."""

    def __init__(self) -> None:
        self._written: set[tuple[int, int]] = set()

    def write_kv(self, pool: KVPool, layer: int, key: Any, value: Any, slot_mapping: Any) -> None:
        new = torch.tensor([(layer, slot) not in self._written for slot in slot_mapping.tolist()])
        self._written |= {(layer, slot) for slot in slot_mapping.tolist()}
        super().write_kv(pool, layer, key, value, torch.where(new, slot_mapping, -1))


class PlanOfTheStepBefore(TorchAttention):
    """Keeps a plan as long as the batch has the same shape."""

    def __init__(self) -> None:
        self._plans: dict[tuple[int, ...], object] = {}

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        shape = (*batch.cu_seqlens_q_cpu, *batch.block_table.shape)
        return self._plans.setdefault(shape, super().plan(batch, pool, capture=capture))


class PromptsStartAtNothing(TorchAttention):
    """A chunk sees itself only, not what was computed before."""

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        starts = batch.cu_seqlens_q_cpu
        chunks = [end - start for start, end in pairwise(starts)]
        lengths = [
            chunk if chunk > 1 else length
            for chunk, length in zip(chunks, batch.seq_lens_cpu, strict=True)
        ]
        return super().plan(replace(batch, seq_lens_cpu=lengths), pool, capture=capture)


class RotatesByTheRow(TorchAttention):
    """Positions count from the step's first token when there is one token a request."""

    def rope_and_write(self, pool: KVPool, layer: int, query: Any, key: Any, *rest: Any) -> Any:
        value, positions, *others = rest
        if len(positions) > 1 and bool((positions.diff() != 1).all()):
            positions = torch.arange(len(positions))
        return super().rope_and_write(pool, layer, query, key, value, positions, *others)


def with_attention(attention: type[TorchAttention]) -> Callable[..., TorchBackend]:
    def make(spec: BackendSpec, config: BackendConfig) -> TorchBackend:
        backend = Float32Backend(spec, config)
        backend.attention = attention()
        return backend

    make.__name__ = attention.__name__
    return make


# Layers that a backend fuses


class Fused(Float32Backend):
    """Runs the layers op by op, with parts that are not quite those of the model."""

    def other(self, part: LayerParts) -> LayerParts:
        return part

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        blocks = [DecoderLayer(self.other(part), self.ops) for part in layers]

        def run(hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext) -> Any:
            residual = None
            for block in blocks:
                hidden, residual = block(hidden, residual, positions, context)
            return hidden, residual

        return run


class WindowWrongByOne(Fused):
    def other(self, part: LayerParts) -> LayerParts:
        window = part.attention.window
        return replace(part, attention=replace(part.attention, window=window and window + 1))


class NoNormsOfHeads(Fused):
    def other(self, part: LayerParts) -> LayerParts:
        return replace(part, weights=replace(part.weights, head_norm=None))


class ExpertsAreNotRenormalized(Fused):
    def other(self, part: LayerParts) -> LayerParts:
        if not isinstance(part.weights.mlp, ExpertWeights):
            return part
        mlp = replace(part.weights.mlp, renormalize=False)
        return replace(part, weights=replace(part.weights, mlp=mlp))


class LayersShareACache(Fused):
    def other(self, part: LayerParts) -> LayerParts:
        return replace(part, index=0)


# Around a step


class ForgetsToCount(Float32Backend):
    """The table's positions stay where they are in a step of more than four requests."""

    def __init__(self, spec: BackendSpec, config: BackendConfig) -> None:
        super().__init__(spec, config)
        self.ops = OpRegistry(reference.REFERENCES, [provider("begin_decode")])


def begin_decode(rows: torch.Tensor, tokens: Any, position: torch.Tensor, *rest: Any) -> Any:
    counted = position if len(rows) <= 4 else position.clone()
    return reference.begin_decode(rows, tokens, counted, *rest)


def provider(op: str) -> OpProvider:
    return OpProvider(op=op, name="own", target=f"{__name__}:{op}", priority=1)


class HoldsBackNothing(Float32Backend):
    """Gives every request the tokens of the first one where no log-probability is wanted."""

    def __init__(self, spec: BackendSpec, config: BackendConfig) -> None:
        super().__init__(spec, config)
        self.ops = OpRegistry(reference.REFERENCES, [provider("greedy")])


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    largest, tokens = reference.greedy(logits)
    return largest, tokens[:1].expand_as(tokens).contiguous()


# Graphs


class ReplaysTheFirstGraph(RecordedGraphPool):
    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        graph = super().capture(fn, key=key, warmup=warmup)
        replay, seen = graph.replay, [0]

        def once() -> None:
            seen[0] += 1
            if seen[0] < 3:
                replay()

        graph.replay = once  # type: ignore[method-assign]
        return graph


class GraphStopsReplaying(GraphBackend):
    """After two replays a graph leaves what it left before."""

    def __init__(self, spec: BackendSpec, config: BackendConfig) -> None:
        super().__init__(spec, config)
        vars(self.device)["recorded"] = ReplaysTheFirstGraph()


FAULTS: dict[Callable[..., TorchBackend], str] = {
    with_attention(BlocksAreWrittenOnce): "llama3",
    with_attention(PlanOfTheStepBefore): "llama3",
    with_attention(PromptsStartAtNothing): "llama3",
    with_attention(RotatesByTheRow): "llama3",
    WindowWrongByOne: "mistral",
    NoNormsOfHeads: "qwen3",
    ExpertsAreNotRenormalized: "qwen3_moe",
    LayersShareACache: "llama3",
    ForgetsToCount: "llama3",
    HoldsBackNothing: "llama3",
    GraphStopsReplaying: "llama3",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_a_whole_model_is_caught(
    fault: Callable[..., TorchBackend], tmp_path: Path
) -> None:
    assert first_failure(fault, tmp_path, FAULTS[fault])


def test_a_backend_without_a_fault_passes(tmp_path: Path) -> None:
    found = outcomes(Fused, tmp_path, "mistral")
    assert {outcome.status for outcome in found} == {"passed"}


def test_a_backend_with_graphs_runs_with_and_without_them(tmp_path: Path) -> None:
    found = outcomes(GraphBackend, tmp_path, "mistral", only="a batch")
    assert [outcome.case for outcome in found] == [
        "mistral float32: a batch",
        "mistral float32: a batch, without graphs",
    ]
    assert {outcome.status for outcome in found} == {"passed"}


def test_what_a_backend_cannot_run_is_skipped_with_its_reason(tmp_path: Path) -> None:
    class NoWindow(Float32Backend):
        default_capabilities = replace(
            HOST, dtypes=(torch.float32,), attention=HOST.attention - {"window"}
        )

    found = outcomes(NoWindow, tmp_path, "mistral")
    assert {outcome.status for outcome in found} == {"skipped"}
    assert all("window" in outcome.reason for outcome in found)
