"""A model on the plugin's own parts, in Triton's interpreter: attention, ops and fused layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from windlass.backend import (
    BackendConfig,
    KVLayout,
    KVSpec,
    LayerParts,
    LayersFunction,
    OpRegistry,
    TorchBackend,
)
from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.layers import FusedLayers, fuse_layers
from windlass.backend.triton.ops import TritonOps
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.executor.model_runner import TorchModelRunner
from windlass.kernels import REFERENCES
from windlass.plugin import BackendSpec
from windlass.testing.parity import distance, greedy_requests, run_requests
from windlass.testing.tiny_models import write_tiny_model
from windlass_xpu import ops
from windlass_xpu.plugin import windlass_op_providers
from windlass_xpu.tuning import XpuTuning

PROMPTS = [[3, 17, 99], [7, 8, 9, 10, 11, 12, 13]]


class InterpretedBackend(TorchBackend):
    """The host as if it were the GPU."""

    fused: FusedLayers | None = None

    def __init__(self, tuning: XpuTuning) -> None:
        spec = BackendSpec(name="interpreted", target="", device_type="cpu", priority=1)
        super().__init__(spec, BackendConfig())
        self.tuning = tuning
        providers = windlass_op_providers("xpu", tuning.arch)
        self.ops = OpRegistry(REFERENCES, providers, arch=tuning.arch)
        self.attention = TritonAttention(tuning)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        return (KVLayout(order="LBHNC", block_size=64),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        fused = fuse_layers(layers, by_ops, self.ops, self.tuning)
        assert isinstance(fused, FusedLayers)
        self.fused = fused
        return fused


@pytest.mark.parametrize("arch", ["xe_hpg", "xe2"])
def test_the_parts_together_give_the_tokens_of_transformers(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = XpuTuning(arch, 4, "cpu")
    monkeypatch.setitem(vars(ops), "OPS", TritonOps(tuning))
    model = write_tiny_model("qwen3", tmp_path, vocab_size=128)
    backend = InterpretedBackend(tuning)
    config = EngineConfig(
        model=ModelConfig(model=str(tmp_path), dtype="float16"),
        cache=CacheConfig(num_blocks=8),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=6),
    )
    runner = TorchModelRunner(config, backend)
    engine = EngineCore(config, runner.load(), runner)
    # Steps of few tokens: chunks among decodes.
    said = run_requests(engine, greedy_requests(PROMPTS, max_tokens=2))
    runner.close()
    assert backend.fused is not None
    assert backend.fused.most_tokens >= 1
    for prompt, generation in zip(PROMPTS, said.values(), strict=True):
        assert generation.error is None
        off = distance(model, prompt, generation)
        assert (off.wrong, len(generation.token_ids)) == (0, 2)
        assert off.logprob < 3e-2
