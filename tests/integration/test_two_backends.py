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
from windlass.backend import Backend
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

NUM_TOKENS = 6


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
def engine(backend: str, folder: Path) -> Iterator[EngineCore]:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype="float32"),
        cache=CacheConfig(num_blocks=33),
        scheduler=SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=24),
        backend=BackendConfig(backend=backend),
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


def state_of_the_process() -> tuple[object, ...]:
    """What engines could share by accident: random generators, and torch's defaults."""
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@dataclass(frozen=True)
class Loaded:
    """An engine on each backend, all in this process; `before` is what it was before them."""

    cores: dict[str, EngineCore]
    before: tuple[object, ...]


@pytest.fixture(scope="module")
def loaded(jax_backend: None, saved: dict[str, Saved]) -> Iterator[Loaded]:
    before = state_of_the_process()
    with ExitStack() as stack:
        cores = {name: stack.enter_context(engine(name, saved[name].folder)) for name in FAMILIES}
        yield Loaded(cores, before)


@pytest.mark.parametrize("other", ["jax", "fake"])
def test_two_models_on_two_backends_take_turns(
    loaded: Loaded, saved: dict[str, Saved], other: str
) -> None:
    """Step by step in turns, each engine gives the tokens that transformers gives of its model."""
    asked = dict(zip(("cpu", other), (prompts(1), prompts(2)), strict=True))
    requests = {
        name: greedy_requests(some, max_tokens=NUM_TOKENS, prefix=other)
        for name, some in asked.items()
    }
    said = in_turns({name: loaded.cores[name] for name in asked}, requests)
    for name, some in asked.items():
        for prompt, generation in zip(some, said[name].values(), strict=True):
            assert len(generation.token_ids) == NUM_TOKENS
            found = distance(saved[name].model, prompt, generation)
            assert (found.wrong, found.logprob < 2e-4) == (0, True), name


def test_random_tokens_come_from_the_seed_and_not_from_the_neighbours(loaded: Loaded) -> None:
    """All engines in turns, and each alone, give the same; the process is left as it was."""
    cores = loaded.cores
    drawn = {name: sampled_requests(seed) for seed, name in enumerate(cores)}
    together = in_turns(cores, drawn)
    for name, core in cores.items():
        alone = in_turns({name: core}, {name: drawn[name]})[name]
        assert tokens(together[name]) == tokens(alone)
    assert state_of_the_process() == loaded.before


def test_one_seed_gives_one_answer_on_every_backend(
    loaded: Loaded, saved: dict[str, Saved]
) -> None:
    """The model of the JAX engine on the cpu backend beside it: the same random tokens."""
    with engine("cpu", saved["jax"].folder) as second:
        cores = {"jax": loaded.cores["jax"], "cpu": second}
        said = in_turns(cores, {name: sampled_requests(5) for name in cores})
    assert tokens(said["jax"]) == tokens(said["cpu"])


def test_a_closed_engine_takes_nothing_from_the_others(
    loaded: Loaded, saved: dict[str, Saved]
) -> None:
    """Memory, graphs and the request table of an engine are its own."""
    kept = {name: loaded.cores[name] for name in ("fake", "jax")}
    requests = {name: sampled_requests(7) for name in kept}
    expected = in_turns(kept, requests)
    with ExitStack() as stack:
        gone = {n: stack.enter_context(engine(n, saved[n].folder)) for n in ("cpu", "jax")}
        in_turns(gone, {name: sampled_requests(8) for name in gone})
    said = in_turns(kept, requests)
    assert {n: tokens(said[n]) for n in kept} == {n: tokens(expected[n]) for n in kept}


def test_each_backend_keeps_its_own_order_of_ops() -> None:
    ordered = create_backend(BackendConfig(backend="cpu", ops={"silu_mul": ["reference"]}))
    plain = create_backend(BackendConfig(backend="cpu"))
    other = create_backend(BackendConfig(backend="fake"), extra={"fake": fake})

    def providers(backend: Backend) -> list[str]:
        (op,) = (op for op in backend.ops if op.name == "silu_mul")
        return [candidate.name for candidate in op.candidates]

    assert providers(ordered)[0] == "reference"
    assert providers(plain)[-1] == "reference"
    assert providers(other) == ["reference"]
    for backend in (ordered, plain, other):
        backend.close()


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
