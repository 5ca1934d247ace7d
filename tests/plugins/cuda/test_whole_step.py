"""A model on the plugin's own parts, in Triton's interpreter: attention, ops and fused layers.

Parts are covered one by one beside this; here they must fit together, over prefill, mixed steps and
decodes. Without a GPU there is no graph: `tests/core/executor` has graphs on a recording device.
"""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from windlass.backend import LayerParts, LayersFunction
from windlass.backend.triton.layers import FusedLayers
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.executor.model_runner import TorchModelRunner
from windlass.request import Request, SamplingParams
from windlass.testing.triton_kernels import InterpretedBackend, interpreted_backend
from windlass_cuda.plugin import SPEC

GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
PROMPTS = [[3, 17, 99], [7, 8, 9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def reference_model() -> Qwen3ForCausalLM:
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=64,
        initializer_range=0.3,
        dtype=torch.float16,
        eos_token_id=127,
    )
    return Qwen3ForCausalLM(config).eval()


def generate(folder: Path, backend: InterpretedBackend) -> list[list[int]]:
    """Greedy tokens of all prompts at once, in steps of few tokens: chunks among decodes."""
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype="float16"),
        cache=CacheConfig(num_blocks=32),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=6),
    )
    runner = TorchModelRunner(config, backend)
    engine = EngineCore(config, runner.load(), runner)
    for number, prompt in enumerate(PROMPTS):
        engine.add_request(
            Request(request_id=str(number), prompt_token_ids=prompt, sampling=GREEDY)
        )
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens[int(output.request_id)] += output.new_token_ids
    runner.close()
    return tokens


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_parts_together_give_the_tokens_of_transformers(
    arch: str,
    reference_model: Qwen3ForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference_model.save_pretrained(tmp_path)
    backend = interpreted_backend(SPEC.offline, arch)
    fused: list[LayersFunction | None] = []

    def fuse_layers(layers: list[LayerParts], by_ops: LayersFunction) -> LayersFunction | None:
        fused.append(InterpretedBackend.fuse_layers(backend, layers, by_ops))
        return fused[-1]

    monkeypatch.setattr(backend, "fuse_layers", fuse_layers)
    got = generate(tmp_path, backend)
    (layers,) = fused
    assert isinstance(layers, FusedLayers)
    assert layers.most_tokens >= len(PROMPTS)
    for prompt, tokens in zip(PROMPTS, got, strict=True):
        expected = reference_model.generate(
            torch.tensor([prompt]), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
        assert tokens == expected[0, len(prompt) :].tolist()
