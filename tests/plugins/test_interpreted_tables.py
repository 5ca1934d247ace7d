"""The Triton plugins' tables in Triton's interpreter: attention, ops and fused layers together.

Kernels are covered one by one beside this, and all of a chip's attention by
`windlass conformance NAME --interpret ARCH`. Here one of its cases runs for a chip of each family,
and a model whose steps are chunks among decodes. Without a device there is no graph:
`tests/core/executor` has graphs on a recording device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from windlass.backend import LayerParts, LayersFunction
from windlass.backend.triton.layers import FusedLayers
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.executor.model_runner import TorchModelRunner
from windlass.testing.conformance.attention import attention_cases
from windlass.testing.parity import distance, greedy_requests, run_requests
from windlass.testing.tiny_models import write_tiny_model
from windlass.testing.triton_kernels import InterpretedBackend, interpreted_backend
from windlass_cuda.plugin import SPEC as CUDA
from windlass_rocm.plugin import SPEC as ROCM
from windlass_xpu.plugin import SPEC as XPU

CHIPS = [
    (CUDA.offline, "sm_90"),
    (ROCM.offline, "gfx942"),
    (ROCM.offline, "gfx1100"),
    (XPU.offline, "xe2"),
]
CASE = "float32 mixed, GQA, all, head size 80"
PROMPTS = [[3, 17, 99], [7, 8, 9, 10, 11, 12, 13]]


@pytest.mark.parametrize(("offline", "arch"), CHIPS)
def test_attention_is_the_oracles(offline: str, arch: str) -> None:
    cases = {case.name: case for case in attention_cases(interpreted_backend(offline, arch))}
    cases[CASE].check()


@pytest.mark.parametrize(("offline", "arch"), CHIPS)
def test_a_model_gives_the_tokens_of_transformers(
    offline: str, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model("qwen3", tmp_path, vocab_size=128)
    backend = interpreted_backend(offline, arch)
    fused: list[LayersFunction | None] = []

    def fuse_layers(layers: Sequence[LayerParts], by_ops: LayersFunction) -> LayersFunction | None:
        fused.append(InterpretedBackend.fuse_layers(backend, layers, by_ops))
        return fused[-1]

    monkeypatch.setattr(backend, "fuse_layers", fuse_layers)
    config = EngineConfig(
        model=ModelConfig(model=str(tmp_path), dtype="float16"),
        cache=CacheConfig(num_blocks=8),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=6),
    )
    runner = TorchModelRunner(config, backend)
    engine = EngineCore(config, runner.load(), runner)
    said = run_requests(engine, greedy_requests(PROMPTS, max_tokens=2))
    runner.close()
    (layers,) = fused
    assert isinstance(layers, FusedLayers)
    assert layers.most_tokens >= len(PROMPTS)
    for prompt, generation in zip(PROMPTS, said.values(), strict=True):
        assert generation.error is None
        off = distance(model, prompt, generation)
        assert (off.wrong, len(generation.token_ids)) == (0, 2)
        assert off.logprob < 3e-2
