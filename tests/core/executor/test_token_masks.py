"""What the host adds to sampling: masks, logits processors, and what happens when one fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
import torch
from llguidance import LLTokenizer

from windlass import LLM, SamplingParams, StructuredOutputs, demo_model
from windlass.config import EngineConfig, ModelConfig, SchedulerConfig
from windlass.errors import ConfigError, RequestError
from windlass.executor.logits_processors import LogitsProcessors
from windlass.kernels import REFERENCES

if TYPE_CHECKING:
    from conftest import Driver

DIGITS = StructuredOutputs(regex="[0-9]{4}")


class Only:
    """A logits processor that lets only one token through, and fails after so many."""

    def __init__(self, value: dict[str, int], vocab_size: int) -> None:
        self.token, self.after = value["token"], value.get("after", 10**6)
        if not 0 <= self.token < vocab_size:
            raise ValueError(f"There is no token {self.token}.")
        self.seen: list[int] = []

    def __call__(self, output_token_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        assert all(token == self.token for token in output_token_ids)
        if len(output_token_ids) == self.after:
            raise ValueError("no more")
        only = torch.full_like(logits, -torch.inf)
        only[self.token] = logits[self.token]
        return only


class _EntryPoint:
    def __init__(self, name: str, target: Any) -> None:
        self.name, self._target = name, target

    def load(self) -> Any:
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


@pytest.fixture(scope="module")
def plugins() -> Iterator[None]:
    found = [_EntryPoint("only", Only), _EntryPoint("broken", ImportError("no such module"))]
    others = metadata.entry_points

    def entry_points(group: str) -> Any:
        return found if group == "windlass.logits_processors" else others(group=group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "entry_points", entry_points)
        yield


@pytest.fixture(scope="module")
def llm(plugins: None) -> Iterator[LLM]:
    config = EngineConfig(
        model=ModelConfig(model=str(demo_model.path()), load_format="dummy", dtype="float32"),
        scheduler=SchedulerConfig(max_num_seqs=8),
        logits_processors=("only",),
    )
    with LLM.from_config(config) as model:
        yield model


def params(**sampling: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})


def test_a_mask_forbids_what_its_bits_do_not_allow() -> None:
    logits = torch.arange(70.0).repeat(2, 1)
    mask = torch.zeros(2, 3, dtype=torch.int32)
    mask[0, 0], mask[0, 2] = 1 << 5, 1 << 3
    mask[1, 0] = -(2**31)
    masked = REFERENCES["apply_token_mask"](logits, mask)
    assert masked.isfinite().nonzero().tolist() == [[0, 5], [0, 67], [1, 31]]
    assert masked[0, 67] == 67
    assert logits.isfinite().all()


def test_a_processor_changes_its_own_request_only(llm: LLM) -> None:
    (alone,) = llm.generate("One", params(ignore_eos=True))
    results = llm.generate(
        ["One"] * 3,
        [
            params(extra_args={"only": {"token": 70}}),
            params(ignore_eos=True),
            params(extra_args={"only": {"token": 71}}, temperature=1.0, logprobs=1),
        ],
    )
    first, free, second = (result.outputs[0] for result in results)
    assert list(first.token_ids) == [70] * 8
    assert list(second.token_ids) == [71] * 8
    assert list(free.token_ids) == list(alone.outputs[0].token_ids)


def test_a_processor_that_fails_ends_only_its_request(llm: LLM) -> None:
    failing = params(extra_args={"only": {"token": 70, "after": 3}})
    wrong, good = llm.generate(["One"] * 2, [failing, params(ignore_eos=True)])
    assert wrong.outputs[0].finish_reason == "error"
    assert list(wrong.outputs[0].token_ids) == [70] * 3
    assert len(good.outputs[0].token_ids) == 8


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"token": 10**9}, "The logits processor 'only' refuses its argument: There is no token"),
        (["token"], "The logits processor 'only' refuses its argument: list indices must be"),
        ({}, r"The logits processor 'only' refuses its argument\.$"),
    ],
)
def test_an_argument_that_a_processor_refuses_is_told_before_anything_runs(
    llm: LLM, argument: object, told: str
) -> None:
    refused = params(extra_args={"only": argument})
    with pytest.raises(RequestError, match=told) as caught:
        llm.generate(["One"] * 2, [refused, params()])
    assert (caught.value.param, caught.value.code) == ("extra_args", "invalid_value")
    (good,) = llm.generate(["One"], params(ignore_eos=True))
    assert len(good.outputs[0].token_ids) == 8


def test_processors_that_cannot_be_loaded_stop_the_start(plugins: None) -> None:
    with pytest.raises(ConfigError, match=r"'nobody' is not installed; there are: broken, only"):
        LogitsProcessors(["nobody"], 10)
    with pytest.raises(ConfigError, match="'broken' cannot be imported: ImportError"):
        LogitsProcessors(["broken"], 10)


def test_a_matcher_that_fails_ends_only_its_request(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    matchers = llm._runner._matchers  # type: ignore[attr-defined]
    start = matchers.start
    given: list[Any] = []

    def breaking(sampling: SamplingParams, output: list[int]) -> Any:
        matcher = start(sampling, output)
        if sampling.seed == 13:
            matcher = broken(matcher)
            given.append(matcher)
        return matcher

    monkeypatch.setattr(matchers, "start", breaking)
    constrained = {"structured_outputs": DIGITS, "temperature": 1.0}
    wrong, good, free = llm.generate(
        ["One"] * 3,
        [params(**constrained, seed=13), params(**constrained, seed=1), params(ignore_eos=True)],
    )
    assert given
    assert wrong.outputs[0].finish_reason == "error"
    assert good.outputs[0].text.isdigit()
    assert good.outputs[0].finish_reason == "stop"
    assert len(free.outputs[0].token_ids) == 8


def broken(matcher: Any) -> Any:
    """Drive a matcher into its error state: nothing is allowed that the grammar does not allow."""
    while not matcher.is_error():
        matcher.consume_token(3)
    return matcher


class _Bytes:
    """The vocabulary of the driver's model: token i is byte i, the last one ends a text."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 127
    special_token_ids = (127,)
    tokens = tuple(bytes([i]) for i in range(128))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def byte_driver(driver: Driver) -> Driver:
    driver.runner._matchers._tokenizer = LLTokenizer(_Bytes(), eos_token=127)  # type: ignore
    return driver


def test_steps_that_run_ahead_keep_to_the_grammar(byte_driver: Driver) -> None:
    """Every step is launched before the last one's token is read, with graphs and without."""
    constraint = StructuredOutputs(regex="[a-c]{3}(x|yz)[0-9]{4}")
    for seed in range(4):
        sampling = params(structured_outputs=constraint, temperature=1.5, seed=seed)
        tokens = byte_driver.generate("one", [1, 2, 3], sampling, 10)
        assert re.match("[a-c]{3}(x|yz)[0-9]{4}", bytes(tokens).decode())


def test_rows_with_and_without_masks_share_a_step(byte_driver: Driver) -> None:
    plain = params(seed=0)
    alone = byte_driver.generate("alone", [9, 9], plain, 5)
    wanted = {
        "grammar": params(structured_outputs=StructuredOutputs(regex="[d-f]{9}"), seed=1),
        "allowed": params(allowed_token_ids=[64, 65], temperature=2.0, seed=2),
        "plain": plain,
    }
    started = [
        byte_driver.start(name, [9, 9], sampling, row=row)
        for row, (name, sampling) in enumerate(wanted.items(), start=1)
    ]
    handles = [byte_driver.launch([row for _, row in started], [new for new, _ in started])]
    for i in range(1, 5):
        handles.append(byte_driver.launch([byte_driver.decode(name, i) for name in wanted]))
    results = [handle.collect() for handle in handles]
    found = {name: [result.tokens[name] for result in results] for name in wanted}
    assert set(found["grammar"]) <= set(b"def")
    assert set(found["allowed"]) <= {64, 65}
    assert found["plain"] == alone


def test_a_sequence_that_comes_again_goes_on_where_it_was(byte_driver: Driver) -> None:
    sampling = params(structured_outputs=StructuredOutputs(regex="[a-c]{3}[0-9]{3}"), seed=1)
    known = [1, 2, *b"abc"]
    new, row = byte_driver.start("again", known, sampling, row=2)
    new.prompt_len = 2
    result = byte_driver.step([row], [new])
    assert chr(result.tokens["again"]).isdigit()


def test_preparing_a_grammar_does_not_keep_others_waiting(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a grammar is compiled its request waits, and a request behind it is answered."""
    from threading import Event

    from windlass.structured_output import matcher as module

    may_go_on = Event()
    compile_matcher = module.compile_matcher

    def slow(*arguments: Any) -> Any:
        assert may_go_on.wait(30)
        return compile_matcher(*arguments)

    monkeypatch.setattr(module, "compile_matcher", slow)
    engine, process = llm._engine, llm._process
    held = process("One", params(structured_outputs=StructuredOutputs(regex="[3-7]{2}")), 0)
    other = process("Two", params(ignore_eos=True), 0)
    engine.add_request(held.requests[0])
    engine.add_request(other.requests[0])
    ended: list[str] = []
    tokens: dict[str, list[int]] = {}
    while len(ended) < 2:
        for output in engine.step():
            tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            if output.finished:
                ended.append(output.request_id)
                may_go_on.set()
    assert ended == [other.request_id, held.request_id]
    assert len(tokens[held.request_id]) >= 2


def test_a_request_in_preparation_can_be_aborted(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = params(structured_outputs=StructuredOutputs(regex="[2-9]{3}"))
    held = llm._process("One", sampling, 0)
    llm._engine.add_request(held.requests[0])
    llm._engine.abort([held.request_id])
    outputs = [output for _ in range(3) for output in llm._engine.step()]
    assert [(o.request_id, o.finish_reason) for o in outputs] == [(held.request_id, "abort")]
    assert not llm._engine.has_work
