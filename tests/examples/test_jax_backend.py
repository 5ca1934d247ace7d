"""The example backend in JAX: no torch runs the model, and the engine answers as ever."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from transformers import PreTrainedModel

from windlass.config import BackendConfig, CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.errors import OutOfMemoryError, UnsupportedError
from windlass.executor.build import build_runner
from windlass.kernels import sampling
from windlass.plugin.doctor import diagnose
from windlass.request import Request, SamplingParams
from windlass.step import ModelRunner
from windlass.testing.conformance import Target, prove
from windlass.testing.engine_harness import Generation
from windlass.testing.parity import distance, greedy_requests, run_requests
from windlass.testing.tiny_models import VOCABULARY, write_tiny_model

pytestmark = pytest.mark.usefixtures("jax_backend")

ROOT = Path(__file__).parents[2]
SCHEDULER = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=24)
CACHE = CacheConfig(num_blocks=33, block_size=16)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def settings(folder: Path, backend: str = "jax", **model: Any) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=str(folder), **{"dtype": "float32", **model}),
        cache=CACHE,
        scheduler=SCHEDULER,
        backend=BackendConfig(backend=backend),
    )


@contextmanager
def engine(config: EngineConfig) -> Iterator[EngineCore]:
    runner = build_runner(config)
    try:
        yield EngineCore(config, runner.load(), runner)
    finally:
        runner.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qwen2")


@pytest.fixture(scope="module", autouse=True)
def model(folder: Path) -> PreTrainedModel:
    """A saved model, as transformers knows it: the one family that the kit's L4 leaves out.

    One model for all tests, for they share what is compiled.
    """
    return write_tiny_model("qwen2", folder)


def test_discovery_imports_no_jax_and_there_is_no_device_to_prove() -> None:
    report = prove(Target("jax"), ["L0", "L1"])
    assert report.proven
    assert [outcome.status for outcome in report.outcomes].count("passed") == 6
    assert [absence.level for absence in report.absences] == ["L1"]
    assert "runs models itself" in report.absences[0].reason


def test_it_imports_public_rooms_only_and_its_runner_no_torch() -> None:
    rooms = {"plugin", "backend", "kernels", "config", "step", "checkpoint", "errors", "testing"}
    for path in sorted((ROOT / "examples/jax_backend/windlass_jax").glob("*.py")):
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in getattr(node, "names", [])]
                if isinstance(node, ast.Import)
                else []
            )
        }
        ours = [name.split(".")[1] for name in imported if name.startswith("windlass.")]
        assert set(ours) <= rooms, path.name
        assert ("torch" in imported) == (path.name == "backend.py"), path.name


def test_the_doctor_selects_it_when_named_and_says_that_it_has_no_ops() -> None:
    report = diagnose(BackendConfig(backend="jax"))
    assert (report.selected, report.ops) == ("jax", ())
    assert diagnose().selected != "jax"


def test_greedy_tokens_are_transformers(model: PreTrainedModel, folder: Path) -> None:
    """A batch whose prompts are computed in chunks, beside decodes, over recycled blocks."""
    asked = prompts(1, 60, 7, 33)
    with engine(settings(folder)) as core:
        said = run_requests(
            core, greedy_requests(asked, max_tokens=12, logprobs=2, prompt_logprobs=1)
        )
        cached = run_requests(core, greedy_requests(asked, max_tokens=12, prefix="again"))
    assert [g.num_cached_tokens for g in cached.values()] == [0, 48, 0, 32]
    for prompt, generation in zip(asked * 2, [*said.values(), *cached.values()], strict=True):
        found = distance(model, prompt, generation)
        assert found.wrong == 0
        assert found.logprob < 2e-4


SAMPLING: list[dict[str, Any]] = [
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "seed": -(2**63), "top_k": 20},
    {"temperature": 1.5, "seed": 2**40 + 3, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.0, "seed": 1, "presence_penalty": 1.5, "top_k": 50, "top_p": 0.9},
    {"temperature": 0.0, "logit_bias": {7: 60.0}, "logprobs": 3},
    {"temperature": 1.0, "seed": 9, "min_tokens": 6, "stop_token_ids": tuple(range(0, 512, 3))},
]


def sampled(config: EngineConfig) -> dict[str, Generation]:
    requests = [
        Request(
            request_id=str(number),
            prompt_token_ids=prompt,
            sampling=SamplingParams(max_tokens=16, **{"ignore_eos": True, **wishes}),
        )
        for number, (prompt, wishes) in enumerate(
            zip(prompts(5, 20, 3, 9, 12, 4, 8), SAMPLING, strict=True)
        )
    ]
    with engine(config) as core:
        return run_requests(core, requests)


def test_every_wish_of_sampling_gives_the_tokens_of_the_cpu_backend(folder: Path) -> None:
    ours, theirs = sampled(settings(folder)), sampled(settings(folder, "cpu"))
    for name, expected in theirs.items():
        assert ours[name].token_ids == expected.token_ids, SAMPLING[int(name)]
        assert ours[name].finish_reason == expected.finish_reason
    entries = zip(ours["5"].logprobs, theirs["5"].logprobs, strict=True)
    for entry, expected in entries:
        assert list(entry) == list(expected)
        for token, told in expected.items():
            assert entry[token].rank == told.rank
            assert entry[token].logprob == pytest.approx(told.logprob, abs=1e-4)


def test_dummy_weights_are_those_of_every_backend(folder: Path) -> None:
    answers = []
    for backend in ("jax", "cpu"):
        with engine(settings(folder, backend, load_format="dummy", seed=3)) as core:
            said = run_requests(core, greedy_requests(prompts(9), max_tokens=2))
        answers.append(said["r0"].logprobs[0])
    for told, expected in zip(answers[0].values(), answers[1].values(), strict=True):
        assert told.logprob == pytest.approx(expected.logprob, abs=1e-5)


def test_numbers_that_are_not_finite_end_their_request_alone(folder: Path) -> None:
    asked = prompts(6, 9)
    with engine(settings(folder)) as core:
        runner: Any = core._runner
        alone = run_requests(core, greedy_requests(asked[1:], max_tokens=8, prefix="alone"))
        embedding = runner._weights.embedding
        poisoned = VOCABULARY - 1 if VOCABULARY - 1 not in asked[1] else 0
        runner._weights = runner._weights._replace(
            embedding=embedding.at[poisoned].set(float("nan"))
        )
        asked[0] = [*asked[0], poisoned]
        said = run_requests(core, greedy_requests(asked, max_tokens=8))
    assert said["r0"].finish_reason == "error"
    assert "not finite" in str(said["r0"].error)
    assert said["r1"].token_ids == alone["alone0"].token_ids


def test_a_step_that_fails_costs_its_cache_and_no_later_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windlass_jax import model

    layer, calls = model._layer, []

    def fails_once(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # the second layer of the second step: the first gave its cache away
            raise RuntimeError("the device is gone")
        return layer(*args)

    asked = prompts(9, 5)
    with engine(settings(folder)) as core:
        expected = run_requests(core, greedy_requests(asked, max_tokens=6))
        monkeypatch.setattr(model, "_layer", fails_once)
        said = run_requests(core, greedy_requests(asked, max_tokens=6, prefix="again"))
    assert len(calls) > 4
    assert [g.token_ids for g in said.values()] == [g.token_ids for g in expected.values()]


def test_a_second_round_compiles_nothing(folder: Path) -> None:
    from windlass_jax import model
    from windlass_jax import sampling as jax_sampling

    programs: list[Any] = [model._begin, model._layer, model.final_states]
    programs.append(jax_sampling.sample_step)
    with engine(settings(folder)) as core:
        run_requests(core, greedy_requests(prompts(6, 40, 3), max_tokens=8))
        before = [program._cache_size() for program in programs]
        run_requests(core, greedy_requests(prompts(4, 25, 11), max_tokens=9, prefix="again"))
    assert [program._cache_size() for program in programs] == before


def test_what_the_runner_does_not_do_is_refused_at_load(folder: Path) -> None:
    config = replace(settings(folder, quantization="int8"), cache=CacheConfig(dtype="fp8"))
    refused = "does not do: quantization 'int8'; kv_cache_dtype 'fp8'"
    with pytest.raises(UnsupportedError, match=refused):
        build_runner(config).load()


def test_experts_are_refused_at_load(tmp_path: Path) -> None:
    write_tiny_model("mixtral", tmp_path)
    with pytest.raises(UnsupportedError, match="layers with experts"):
        build_runner(settings(tmp_path)).load()


def test_memory_bounds_the_cache(folder: Path) -> None:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), max_model_len=512),
        cache=CacheConfig(memory_utilization=1e-9),
        backend=BackendConfig(backend="jax"),
    )
    with pytest.raises(OutOfMemoryError, match="max_model_len 512 needs a KV cache of"):
        build_runner(config).load()


def test_random_numbers_are_those_of_the_contract() -> None:
    from windlass_jax.sampling import philox_uniform

    seeds = np.array([0, 1, -1, 2**40 + 3, -(2**63)], dtype=np.int64)
    positions = np.array([0, 5, 131071, 2**31 - 1, 77], dtype=np.int32)
    expected = sampling.philox_uniform(torch.tensor(seeds), torch.tensor(positions).long())
    found = philox_uniform(seeds.view(np.uint32).reshape(-1, 2), positions)
    assert np.array_equal(np.asarray(found), expected.numpy())


def test_the_runner_is_the_protocols(folder: Path) -> None:
    runner: ModelRunner = build_runner(settings(folder))
    assert type(runner).__module__ == "windlass_jax.runner"
    runner.close()
