"""The whole engine against transformers: the same tokens, however requests are batched."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
import torch
from transformers import PreTrainedModel

from windlass.config import (
    BackendConfig,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from windlass.engine.core import EngineCore
from windlass.executor.build import build_runner
from windlass.testing.engine_harness import Generation
from windlass.testing.parity import distance, greedy_requests, run_requests
from windlass.testing.tiny_models import FAMILIES, VOCABULARY, write_tiny_model

NUM_PROMPTS, NUM_TOKENS = 32, 128


def prompts(count: int = NUM_PROMPTS) -> list[list[int]]:
    """Prompts of mixed length, from 1 to about 130 tokens."""
    generator = torch.Generator().manual_seed(7)
    lengths = [1 + (37 * i) % 131 for i in range(count)]
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


@dataclass(frozen=True)
class Case:
    """One saved model, transformers' view of it, and engines over it."""

    folder: Path
    model: PreTrainedModel

    def engine(
        self, scheduler: SchedulerConfig, cache: CacheConfig, dtype: str = "float32"
    ) -> EngineCore:
        model = ModelConfig(model=str(self.folder), dtype=dtype)  # type: ignore[arg-type]
        config = EngineConfig(
            model=model, cache=cache, scheduler=scheduler, backend=BackendConfig(backend="cpu")
        )
        runner = build_runner(config)
        return EngineCore(config, runner.load(), runner)

    def check(
        self, answers: dict[str, Generation], names_and_prompts: list[tuple[str, list[int]]]
    ) -> None:
        for name, prompt in names_and_prompts:
            assert len(answers[name].token_ids) == NUM_TOKENS
            found = distance(self.model, prompt, answers[name])
            assert found.wrong == 0, name
            assert found.logprob < 2e-4, name


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    return Case(folder, write_tiny_model(request.param, folder))


MANY = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=4096)
PLENTY = CacheConfig(block_size=16, num_blocks=1024)


@pytest.fixture
def closing() -> Iterator[Callable[[EngineCore], EngineCore]]:
    engines: list[EngineCore] = []

    def keep(core: EngineCore) -> EngineCore:
        engines.append(core)
        return core

    yield keep
    for core in engines:
        core._runner.close()


Closing = Callable[[EngineCore], EngineCore]


def test_batched(case: Case, closing: Closing) -> None:
    answers = run_requests(
        closing(case.engine(MANY, PLENTY)), greedy_requests(prompts(), max_tokens=NUM_TOKENS)
    )
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(prompts())])


def test_alone(case: Case, closing: Closing) -> None:
    core = closing(case.engine(replace_scheduler(max_num_seqs=1), PLENTY))
    picked = prompts()[3:6]
    answers = run_requests(core, greedy_requests(picked, max_tokens=NUM_TOKENS))
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def replace_scheduler(**changes: int) -> SchedulerConfig:
    return SchedulerConfig(**{"max_num_seqs": 64, "max_num_batched_tokens": 4096, **changes})


def test_chunked(case: Case, closing: Closing) -> None:
    core = closing(case.engine(replace_scheduler(max_num_batched_tokens=24), PLENTY))
    picked = prompts()[:16]
    answers = run_requests(core, greedy_requests(picked, max_tokens=NUM_TOKENS))
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def test_preempted(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, CacheConfig(block_size=16, num_blocks=50)))
    picked = prompts()[:12]
    answers = run_requests(core, greedy_requests(picked, max_tokens=NUM_TOKENS))
    assert core.stats().num_preemptions > 0
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked)])


def test_prefix_cached(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, PLENTY))
    picked = [prompt for prompt in prompts() if len(prompt) > 40][:8]
    run_requests(core, greedy_requests(picked, max_tokens=3, prefix="first"))
    answers = run_requests(core, greedy_requests(picked, max_tokens=NUM_TOKENS, prefix="again"))
    for i, prompt in enumerate(picked):
        assert answers[f"again{i}"].num_cached_tokens == (len(prompt) - 1) // 16 * 16
    case.check(answers, [(f"again{i}", p) for i, p in enumerate(picked)])


def test_neighbours_are_aborted(case: Case, closing: Closing) -> None:
    core = closing(case.engine(MANY, PLENTY))
    picked = prompts()[:12]
    aborted = {f"r{i}": 3 + 5 * i for i in range(0, 12, 2)}
    answers = run_requests(core, greedy_requests(picked, max_tokens=NUM_TOKENS), aborted)
    assert all(answers[name].finish_reason == "abort" for name in aborted)
    case.check(answers, [(f"r{i}", p) for i, p in enumerate(picked) if i % 2])


def test_bfloat16_logprobs_are_close(case: Case, closing: Closing) -> None:
    """To those of float32: transformers in bfloat16 has roundings of its own."""
    core = closing(case.engine(MANY, PLENTY, dtype="bfloat16"))
    picked = prompts()[:24]
    answers = run_requests(core, greedy_requests(picked, max_tokens=32))
    distances = [
        distance(case.model, prompt, answers[f"r{i}"]).logprob for i, prompt in enumerate(picked)
    ]
    # A rounding may send a token to another expert, so that one answer is far off.
    sparse = hasattr(case.model.config, "num_experts_per_tok")
    assert (median(distances) if sparse else max(distances)) < 0.25
    print(f"bfloat16: largest logprob distance {max(distances):.3f}")
