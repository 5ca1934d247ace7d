"""A model on the plugin's own tables, in Triton's interpreter: attention, ops and fused layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.executor.model_runner import TorchModelRunner
from windlass.testing.parity import distance, greedy_requests, run_requests
from windlass.testing.tiny_models import write_tiny_model
from windlass.testing.triton_kernels import interpreted_backend
from windlass_xpu.plugin import SPEC

PROMPTS = [[3, 17, 99], [7, 8, 9, 10, 11, 12, 13]]


@pytest.mark.parametrize("arch", ["xe_hpg", "xe2"])
def test_the_parts_together_give_the_tokens_of_transformers(arch: str, tmp_path: Path) -> None:
    model = write_tiny_model("qwen3", tmp_path, vocab_size=128, num_hidden_layers=1)
    backend = interpreted_backend(SPEC.offline, arch)
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
    for prompt, generation in zip(PROMPTS, said.values(), strict=True):
        assert generation.error is None
        off = distance(model, prompt, generation)
        assert (off.wrong, len(generation.token_ids)) == (0, 2)
        assert off.logprob < 3e-2
