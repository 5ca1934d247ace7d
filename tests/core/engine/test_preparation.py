"""Requests whose runner has something to prepare wait for it, and nobody else does."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from windlass.config import EngineConfig, ModelConfig
from windlass.engine.core import EngineCore
from windlass.engine.outputs import SequenceOutput
from windlass.errors import RequestError
from windlass.request import Request, SamplingParams
from windlass.testing.content_runner import ContentRunner


class PreparingRunner(ContentRunner):
    """Prepares every request that has a seed, until the test says that it is done."""

    def __init__(self) -> None:
        super().__init__(num_blocks=100, block_size=4, max_model_len=32, vocab_size=50)
        self.futures: dict[int, Future[Any]] = {}

    def prepare(self, sampling: SamplingParams) -> Future[Any] | None:
        return None if sampling.seed is None else self.futures.setdefault(sampling.seed, Future())


@pytest.fixture
def runner() -> PreparingRunner:
    return PreparingRunner()


@pytest.fixture
def engine(runner: PreparingRunner) -> EngineCore:
    return EngineCore(EngineConfig(model=ModelConfig(model="none")), runner.info, runner)


def request(name: str, seed: int | None = None) -> Request:
    sampling = SamplingParams(max_tokens=2, temperature=0.0, seed=seed)
    return Request(request_id=name, prompt_token_ids=[1, 2, 3], sampling=sampling)


def run(engine: EngineCore, steps: int = 6) -> dict[str, SequenceOutput]:
    """The ends that some steps bring."""
    outputs = [output for _ in range(steps) for output in engine.step()]
    return {output.request_id: output for output in outputs if output.finished}


def test_others_go_on_while_one_is_prepared(engine: EngineCore, runner: PreparingRunner) -> None:
    engine.add_request(request("waits", seed=1))
    engine.add_request(request("goes"))
    assert set(run(engine)) == {"goes"}
    assert engine.has_work
    runner.futures[1].set_result(None)
    assert set(run(engine)) == {"waits"}
    assert not engine.has_work


def test_what_is_prepared_already_does_not_wait(
    engine: EngineCore, runner: PreparingRunner
) -> None:
    runner.prepare(SamplingParams(seed=1)).set_result(None)  # type: ignore[union-attr]
    engine.add_request(request("one", seed=1))
    assert engine.scheduler.sequences.by_id.keys() == {"one"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RequestError("It is too hard."), "It is too hard."),
        (ZeroDivisionError("a fault of ours"), "the request could not be prepared"),
    ],
)
def test_a_request_that_cannot_be_prepared_ends_alone(
    engine: EngineCore, runner: PreparingRunner, error: Exception, told: str
) -> None:
    engine.add_request(request("fails", seed=1))
    engine.add_request(request("goes"))
    runner.futures[1].set_exception(error)
    ends = run(engine)
    assert (ends["fails"].finish_reason, ends["fails"].error) == ("error", told)
    assert ends["goes"].finish_reason == "length"


def test_an_aborted_request_is_not_added_later(engine: EngineCore, runner: PreparingRunner) -> None:
    engine.add_request(request("gone", seed=1))
    engine.abort(["gone", "unknown"])
    runner.futures[1].set_result(None)
    assert {name: end.finish_reason for name, end in run(engine).items()} == {"gone": "abort"}
    assert not engine.has_work


def test_an_id_that_waits_is_in_use(engine: EngineCore) -> None:
    engine.add_request(request("one", seed=1))
    for again in (request("one", seed=2), request("one")):
        with pytest.raises(RequestError, match="in use"):
            engine.add_request(again)
