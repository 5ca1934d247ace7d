"""A model on the plugin's own parts, in Triton's interpreter: attention, ops and fused layers.

Parts are covered one by one beside this; here they must fit together, over prefill, mixed steps and
decodes. Without a GPU there is no graph: `tests/core/executor` has graphs on a recording device.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

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
from windlass.request import Request, SamplingParams
from windlass_cuda import ops
from windlass_cuda.providers import op_providers
from windlass_cuda.tuning import CudaTuning

# The newest that starts no kernel early, which the interpreter does not know.
TUNING = CudaTuning("sm_80", 4, "cpu")
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
PROMPTS = [[3, 17, 99], [7, 8, 9, 10, 11, 12, 13]]


class InterpretedBackend(TorchBackend):
    """The host as if it were the GPU."""

    fused: FusedLayers | None = None

    def __init__(self) -> None:
        spec = BackendSpec(name="interpreted", target="", device_type="cpu", priority=1)
        super().__init__(spec, BackendConfig())
        self.ops = OpRegistry(REFERENCES, op_providers(TUNING.arch), arch=TUNING.arch)
        self.attention = TritonAttention(TUNING)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        return (KVLayout(order="LBHNC", block_size=16),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        fused = fuse_layers(layers, by_ops, self.ops, TUNING)
        assert isinstance(fused, FusedLayers)
        self.fused = fused
        return fused


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


def test_the_parts_together_give_the_tokens_of_transformers(
    reference_model: Qwen3ForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(ops), "OPS", TritonOps(TUNING))
    reference_model.save_pretrained(tmp_path)
    backend = InterpretedBackend()
    got = generate(tmp_path, backend)
    assert backend.fused is not None
    assert backend.fused.most_tokens >= len(PROMPTS)
    for prompt, tokens in zip(PROMPTS, got, strict=True):
        expected = reference_model.generate(
            torch.tensor([prompt]), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
        assert tokens == expected[0, len(prompt) :].tolist()
