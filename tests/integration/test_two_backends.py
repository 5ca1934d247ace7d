"""Several backends in one process: engines side by side, each with its own everything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from windlass import AsyncEngine, demo_model
from windlass.config import BackendConfig, CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.executor.build import runner_for
from windlass.plugin import create_backend
from windlass.request import Request, SamplingParams
from windlass.testing.engine_harness import Generation
from windlass.testing.fake import plugin as fake
from windlass.testing.parity import distance, greedy_requests
from windlass.testing.tiny_models import VOCABULARY, write_tiny_model

pytestmark = pytest.mark.usefixtures("jax_backend")

FAMILIES = {"cpu": "llama3", "jax": "qwen2", "fake": "qwen3"}
"""The model that each backend serves."""

NUM_TOKENS = 10


@dataclass(frozen=True)
class Saved:
    folder: Path
    model: PreTrainedModel


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """A model for each backend."""
    found = {}
    for backend, family in FAMILIES.items():
        folder = tmp_path_factory.mktemp(family)
        found[backend] = Saved(folder, write_tiny_model(family, folder))
    return found


@contextmanager
def engine(backend: str, folder: Path, **ops: list[str]) -> Iterator[EngineCore]:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype="float32"),
        cache=CacheConfig(num_blocks=33),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=24),
        backend=BackendConfig(backend=backend, ops=ops),
    )
    extra = {"fake": fake} if backend == "fake" else {}
    runner = runner_for(config, create_backend(config.backend, extra=extra))
    try:
        yield EngineCore(config, runner.load(), runner)
    finally:
        runner.close()


def prompts(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in (3, 30, 11)]


def sampled_requests(seed: int) -> list[Request]:
    """Requests whose random numbers must come from their seed, and from nothing else."""
    sampling = SamplingParams(temperature=1.0, seed=seed, max_tokens=NUM_TOKENS, ignore_eos=True)
    return [
        Request(request_id=f"s{i}", prompt_token_ids=prompt, sampling=sampling)
        for i, prompt in enumerate(prompts(seed))
    ]


def in_turns(
    cores: Mapping[str, EngineCore], requests: Mapping[str, list[Request]]
) -> dict[str, dict[str, Generation]]:
    """A step of each engine in turn, until none has work; the generations of each."""
    said: dict[str, dict[str, Generation]] = {name: {} for name in cores}
    for name, core in cores.items():
        for request in requests[name]:
            core.add_request(request)
            said[name][request.request_id] = Generation()
    while any(core.has_work for core in cores.values()):
        for name, core in cores.items():
            for output in core.step() if core.has_work else ():
                said[name][output.request_id].take(output)
    return said


def tokens(said: Mapping[str, Generation]) -> dict[str, list[int]]:
    return {name: generation.token_ids for name, generation in said.items()}


@pytest.mark.parametrize("other", ["jax", "fake"])
def test_two_models_on_two_backends_take_turns(saved: dict[str, Saved], other: str) -> None:
    """Step by step in turns, each engine gives the tokens that transformers gives of its model."""
    names = ("cpu", other)
    greedy = {
        name: greedy_requests(prompts(seed), max_tokens=NUM_TOKENS)
        for seed, name in enumerate(names)
    }
    drawn = {name: sampled_requests(seed) for seed, name in enumerate(names)}
    with ExitStack() as stack:
        cores = {name: stack.enter_context(engine(name, saved[name].folder)) for name in names}
        said = in_turns(cores, greedy)
        together = in_turns(cores, drawn)
        alone = {name: in_turns({name: cores[name]}, drawn)[name] for name in names}
    for seed, name in enumerate(names):
        for prompt, generation in zip(prompts(seed), said[name].values(), strict=True):
            assert len(generation.token_ids) == NUM_TOKENS
            found = distance(saved[name].model, prompt, generation)
            assert (found.wrong, found.logprob < 2e-4) == (0, True), name
        assert tokens(together[name]) == tokens(alone[name])


def test_one_seed_gives_one_answer_on_every_backend(saved: dict[str, Saved]) -> None:
    """The same model on two backends at once: the same random tokens."""
    folder = saved["jax"].folder
    with engine("cpu", folder) as first, engine("jax", folder) as second:
        cores = {"cpu": first, "jax": second}
        said = in_turns(cores, {name: sampled_requests(5) for name in cores})
    assert tokens(said["cpu"]) == tokens(said["jax"])


def test_engines_leave_the_process_as_they_found_it(saved: dict[str, Saved]) -> None:
    """No random generator is drawn from, and no default of torch is changed."""

    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )

    before = state()
    with ExitStack() as stack:
        cores = {name: stack.enter_context(engine(name, saved[name].folder)) for name in FAMILIES}
        for seed in (1, 2):
            in_turns(cores, {name: sampled_requests(seed) for name in cores})
            assert state() == before
    assert state() == before


def test_each_backend_keeps_its_own_order_of_ops() -> None:
    ordered = create_backend(BackendConfig(backend="cpu", ops={"silu_mul": ["reference"]}))
    plain = create_backend(BackendConfig(backend="cpu"))
    other = create_backend(BackendConfig(backend="fake"), extra={"fake": fake})
    names = {
        label: [candidate.name for candidate in backend.ops.silu_mul.candidates]
        for label, backend in {"ordered": ordered, "plain": plain, "other": other}.items()
    }
    assert names["ordered"][0] == "reference"
    assert names["plain"][-1] == "reference"
    assert names["other"] == ["reference"]
    for backend in (ordered, plain, other):
        backend.close()


def test_a_closed_engine_takes_nothing_from_the_others(saved: dict[str, Saved]) -> None:
    """Memory, graphs and the request table of one engine are its own."""
    requests = {"fake": greedy_requests(prompts(2), max_tokens=NUM_TOKENS)}
    with engine("fake", saved["fake"].folder) as kept:
        expected = in_turns({"fake": kept}, requests)
        with engine("cpu", saved["cpu"].folder) as gone:
            in_turns({"cpu": gone}, {"cpu": greedy_requests(prompts(1), max_tokens=2)})
        again = greedy_requests(prompts(2), max_tokens=NUM_TOKENS, prefix="again")
        said = in_turns({"fake": kept}, {"fake": again})
    assert list(tokens(said["fake"]).values()) == list(tokens(expected["fake"]).values())


@pytest.mark.slow
def test_one_front_end_serves_two_backends() -> None:
    """Two engines behind one event loop, each in the process that it always has."""
    sampling = SamplingParams(temperature=0.0, max_tokens=12)

    async def answer(served: AsyncEngine) -> str:
        stream = await served.submit("What is Windlass?", sampling)
        text = ""
        async for output in stream:
            text = output.outputs[0].text
        return text

    async def serve() -> list[str]:
        model = ModelConfig(model=str(demo_model.path()), dtype="float32")
        engines = await asyncio.gather(
            *(
                AsyncEngine.start(EngineConfig(model=model, backend=BackendConfig(backend=name)))
                for name in ("cpu", "jax")
            )
        )
        try:
            assert [served.info.backend for served in engines] == ["cpu", "jax"]
            return list(await asyncio.gather(*map(answer, engines)))
        finally:
            await asyncio.gather(*(served.shutdown() for served in engines))

    cpu, jax = asyncio.run(serve())
    assert cpu
    assert cpu == jax
