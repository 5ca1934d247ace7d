"""A tiny random Llama on the reference backend, driven by hand-written plans.

Every test that uses `driver` runs twice: op by op, and with decode steps as (recorded) graphs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from windlass.backend import BackendConfig, GraphSupport, TorchBackend
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.executor.model_runner import TorchModelRunner
from windlass.plugin import BackendSpec
from windlass.request import SamplingParams
from windlass.step import NewRow, ScheduledRow, StepHandle, StepPlan, StepResult
from windlass.testing.recorded_graph import RecordingDevice

BLOCK_SIZE = 4


@pytest.fixture(scope="session")
def reference_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        eos_token_id=127,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def model_folder(
    reference_model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    reference_model.save_pretrained(folder)
    return folder


@dataclass
class Driver:
    """Writes plans for a runner: what the scheduler does, in its simplest form."""

    runner: TorchModelRunner
    next_block: int = 1
    steps: int = 0
    blocks: dict[str, list[int]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def start(
        self,
        name: str,
        tokens: list[int],
        sampling: SamplingParams,
        *,
        row: int,
        chunk: int | None = None,
        capacity: int = 64,
        stop_token_ids: tuple[int, ...] = (),
        targets: list[int] | None = None,
    ) -> tuple[NewRow, ScheduledRow]:
        """A sequence enters `row`; the first `chunk` of its tokens are computed."""
        count = -(-capacity // BLOCK_SIZE)
        self.blocks[name] = list(range(self.next_block, self.next_block + count))
        self.next_block += count
        new = NewRow(row, name, sampling, 0, tokens, len(tokens), self.blocks[name], stop_token_ids)
        self.rows[name], self.lengths[name] = row, 0
        return new, self.chunk(name, tokens[:chunk], last=chunk is None, targets=targets)

    def chunk(
        self, name: str, tokens: list[int], *, last: bool, targets: list[int] | None = None
    ) -> ScheduledRow:
        start = self.lengths[name]
        self.lengths[name] += len(tokens)
        return ScheduledRow(
            self.rows[name], name, start, len(tokens), tokens, last, 0, prompt_targets=targets
        )

    def decode(self, name: str, output_index: int) -> ScheduledRow:
        start = self.lengths[name]
        self.lengths[name] += 1
        return ScheduledRow(self.rows[name], name, start, 1, [], True, output_index)

    def launch(
        self, rows: list[ScheduledRow], new: list[NewRow] | None = None, freed: tuple[int, ...] = ()
    ) -> StepHandle:
        self.steps += 1
        return self.runner.launch(StepPlan(self.steps, rows, new or [], [], list(freed)))

    def step(self, rows: list[ScheduledRow], new: list[NewRow] | None = None) -> StepResult:
        return self.launch(rows, new).collect()

    def generate(self, name: str, prompt: list[int], sampling: SamplingParams, n: int) -> list[int]:
        """`n` tokens of one sequence alone in row 0, every step launched before the last one's
        result is read."""
        new, row = self.start(name, prompt, sampling, row=0)
        handles = [self.launch([row], [new])]
        tokens = []
        for i in range(1, n):
            handles.append(self.launch([self.decode(name, i)]))
            tokens.append(handles.pop(0).collect().tokens[name])
        tokens.append(handles.pop(0).collect().tokens[name])
        return tokens


class GraphBackend(TorchBackend):
    """The reference backend on a device that captures decode steps."""

    def __init__(self) -> None:
        spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
        super().__init__(spec, BackendConfig())
        self.recording_device = RecordingDevice()
        self.device = self.recording_device
        self.capabilities = replace(self.capabilities, graph=GraphSupport.DECODE_UNIFORM)


def load_runner(model_folder: Path, *, enforce_eager: bool) -> TorchModelRunner:
    config = EngineConfig(
        model=ModelConfig(model=str(model_folder), dtype="float32"),
        cache=CacheConfig(block_size=BLOCK_SIZE, num_blocks=400),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64),
        backend=BackendConfig(enforce_eager=enforce_eager),
    )
    runner = TorchModelRunner(config, GraphBackend())
    runner.load()
    return runner


@pytest.fixture(params=["eager", "graphs"])
def driver(model_folder: Path, request: pytest.FixtureRequest) -> Iterator[Driver]:
    runner = load_runner(model_folder, enforce_eager=request.param == "eager")
    yield Driver(runner)
    runner.close()


@pytest.fixture
def graph_driver(model_folder: Path) -> Iterator[Driver]:
    runner = load_runner(model_folder, enforce_eager=False)
    yield Driver(runner)
    runner.close()
