"""The step loop of models that embed, on a runner that adds tokens up."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from engine_runners import NOT_FINITE, RAISE, SummingRunner, summed

from windlass.config import EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.outputs import SequenceOutput
from windlass.engine.pooling_batches import LAUNCH_TOKENS
from windlass.engine.pooling_core import PoolingCore
from windlass.errors import ContextLengthError, EngineDeadError, RequestError
from windlass.request import PoolingOptions, Request, SamplingParams


def make(**scheduler: object) -> tuple[PoolingCore, SummingRunner]:
    config = EngineConfig(
        model=ModelConfig(model="none"),
        scheduler=SchedulerConfig(**scheduler),  # type: ignore[arg-type]
    )
    runner = SummingRunner(config)
    return PoolingCore(config, runner.load(), runner), runner


def text(name: str, tokens: Iterable[int], priority: int = 0) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=list(tokens),
        sampling=SamplingParams(),
        priority=priority,
        pooling=PoolingOptions(),
    )


def drain(core: PoolingCore) -> dict[str, SequenceOutput]:
    outputs: dict[str, SequenceOutput] = {}
    while core.has_work:
        for output in core.step():
            assert output.request_id not in outputs
            assert output.finished
            outputs[output.request_id] = output
    return outputs


def test_every_text_gets_its_own_vector_within_the_bounds_of_a_batch() -> None:
    core, runner = make(max_num_seqs=16, max_num_batched_tokens=600)
    generator = random.Random(0)
    texts = {
        str(i): [
            generator.randrange(400) for _ in range(generator.choice([1, 3, 40, 90, 300, 512]))
        ]
        for i in range(200)
    }
    for name, tokens in texts.items():
        core.add_request(text(name, tokens))
    outputs = drain(core)

    assert {name: output.pooled for name, output in outputs.items()} == {
        name: summed(tokens) for name, tokens in texts.items()
    }
    assert all(output.metrics is not None for output in outputs.values())
    for lengths in runner.batches:
        assert len(lengths) <= 16
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= 600
        assert max(lengths) * len(lengths) - sum(lengths) < LAUNCH_TOKENS * len(lengths)
    stats = core.stats()
    assert stats.prompt_tokens == sum(map(len, texts.values()))
    assert (stats.num_running, stats.num_waiting, stats.num_waiting_tokens) == (0, 0, 0)
    assert stats.num_steps == len(runner.batches) < 200


def test_texts_of_one_length_are_computed_together() -> None:
    core, runner = make(max_num_seqs=4, max_num_batched_tokens=1000)
    for i in range(9):
        core.add_request(text(str(i), [7] * 20))
    drain(core)
    assert runner.batches == [[20] * 4, [20] * 4, [20]]


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    core, runner = make(max_num_batched_tokens=10)
    for name, length in (("a", 4), ("b", 50), ("c", 5)):
        core.add_request(text(name, [7] * length))
    assert len(drain(core)) == 3
    assert [50] in runner.batches


@pytest.mark.parametrize(("policy", "order"), [("fcfs", "abc"), ("priority", "bca")])
def test_the_order_is_that_of_arrival_or_of_priority(policy: str, order: str) -> None:
    core, _ = make(max_num_seqs=1, policy=policy)
    for name, priority in (("a", 5), ("b", -1), ("c", 0)):
        core.add_request(text(name, [7], priority))
    assert "".join(drain(core)) == order


@pytest.mark.parametrize("position", range(7))
def test_a_text_that_makes_its_batch_fail_harms_only_itself(position: int) -> None:
    core, runner = make()
    for i in range(7):
        core.add_request(text(str(i), [RAISE if i == position else 5 + i]))
    outputs = drain(core)
    failed = outputs.pop(str(position))
    assert failed.finish_reason == "error"
    assert failed.error == "This text made a model step fail (ValueError)."
    assert {name: output.pooled for name, output in outputs.items()} == {
        str(i): summed([5 + i]) for i in range(7) if i != position
    }
    assert 0 < runner.resets <= 4
    core.add_request(text("after", [9]))
    assert drain(core)["after"].pooled == summed([9])


def test_numbers_that_are_not_finite_are_an_error_of_their_text_alone() -> None:
    core, _ = make()
    core.add_request(text("bad", [NOT_FINITE]))
    core.add_request(text("good", [6]))
    outputs = drain(core)
    assert outputs["bad"].finish_reason == "error"
    assert "not finite" in str(outputs["bad"].error)
    assert outputs["good"].pooled == summed([6])


def test_a_device_that_is_gone_ends_the_engine() -> None:
    core, runner = make()
    runner.broken = True
    core.add_request(text("a", [RAISE]))
    with pytest.raises(EngineDeadError):
        drain(core)


def test_aborts_wherever_a_text_stands() -> None:
    core, runner = make(max_num_seqs=2)
    for name in "abcdef":
        core.add_request(text(name, [5]))
    assert core.step() == []
    core.abort(["a", "f", "nobody"])
    core.abort(["a"])
    outputs = drain(core)
    reasons = {name: output.finish_reason for name, output in outputs.items()}
    assert reasons == {"a": "abort", "f": "abort", **dict.fromkeys("bcde", "stop")}
    assert sum(map(len, runner.batches)) == 5
    # Its id is free again.
    core.add_request(text("a", [5]))
    assert drain(core)["a"].pooled == summed([5])


def test_a_batch_whose_texts_are_all_gone_is_not_computed() -> None:
    core, runner = make(max_num_batched_tokens=1000)
    for name, length in (("a", 1), ("b", 500)):
        core.add_request(text(name, [5] * length))
    core.step()
    core.abort(["b"])
    assert drain(core)["b"].finish_reason == "abort"
    assert runner.batches == [[1]]


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (text("new", []), RequestError, "at least one token"),
        (text("new", [5] * 513), ContextLengthError, "at most 512"),
        (text("new", [512]), RequestError, "0 to 511"),
        (text("used", [5]), RequestError, "in use"),
        (
            Request(request_id="new", prompt_token_ids=[5], sampling=SamplingParams()),
            RequestError,
            "does not generate",
        ),
    ],
)
def test_a_wrong_text_is_refused(request_: Request, kind: type, words: str) -> None:
    core, _ = make()
    core.add_request(text("used", [5] * 512))
    with pytest.raises(kind, match=words):
        core.add_request(request_)
    assert list(drain(core)) == ["used"]


def test_the_view_lists_who_runs_and_who_waits() -> None:
    core, _ = make(max_num_seqs=2)
    for name in "abc":
        core.add_request(text(name, [5, 6]))
    core.step()
    view = core.view()
    assert [(s.request_id, s.state, s.num_prompt_tokens) for s in view.sequences] == [
        ("a", "running", 2),
        ("b", "running", 2),
        ("c", "waiting", 2),
    ]
    assert (view.blocks, view.block_size, view.sequences_left_out) == ([], 0, 0)
    assert view.stats.num_waiting_tokens == 2
    assert core.reset_prefix_cache()
    assert len(drain(core)) == 3
