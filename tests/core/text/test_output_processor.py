from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.config import ModelInfo
from windlass.engine.outputs import SequenceOutput
from windlass.errors import RequestError
from windlass.request import Logprob, RequestMetrics, RequestOutput, SamplingParams, TokenLogprobs
from windlass.text import InputProcessor, OutputProcessor, Tokenizer
from windlass.text.input_processor import ProcessedRequest


@dataclass
class Harness:
    """Feeds one request's outputs and collects what comes back."""

    processor: OutputProcessor
    reports: list[RequestOutput] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    def feed(self, *outputs: SequenceOutput) -> None:
        reports, aborted = self.processor.update(outputs)
        self.reports += reports
        self.aborted += aborted

    @property
    def last(self) -> RequestOutput:
        return self.reports[-1]


def start(
    info: ModelInfo,
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    *,
    delta: bool = False,
    final_only: bool = False,
) -> Harness:
    processor = OutputProcessor(tokenizer)
    processor.add(processed(info, tokenizer, sampling), delta=delta, final_only=final_only)
    return Harness(processor)


def processed(
    info: ModelInfo, tokenizer: Tokenizer, sampling: SamplingParams, request_id: str = "r"
) -> ProcessedRequest:
    return InputProcessor(info, tokenizer).process(request_id, "Hello", sampling)


def news(ids: list[int], sequence: str = "r", **fields: object) -> SequenceOutput:
    return SequenceOutput(request_id=sequence, new_token_ids=ids, **fields)  # type: ignore[arg-type]


def letters(tokenizer: Tokenizer, text: str) -> list[int]:
    return [token for char in text for token in tokenizer.encode(char)]


def entry(token: int, logprob: float = -0.5) -> TokenLogprobs:
    return {token: Logprob(logprob, 1), 5: Logprob(-2.0, 2)}


def test_cumulative_reports_until_the_end(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams())
    one, two = byte_level.encode(" world"), byte_level.encode("!")
    harness.feed(news(one, num_cached_tokens=2))
    harness.feed(news(two, finish_reason="length", metrics=RequestMetrics(total_time=1.0)))
    first, last = harness.reports
    assert (first.outputs[0].text, first.finished, first.num_cached_tokens) == (" world", False, 2)
    assert (last.request_id, last.prompt, last.finished) == ("r", "Hello", True)
    assert last.prompt_token_ids == byte_level.encode("Hello")
    answer = last.outputs[0]
    assert (answer.index, answer.text, answer.token_ids) == (0, " world!", one + two)
    assert (answer.finish_reason, answer.stop_reason) == ("length", None)
    assert (answer.logprobs, answer.cumulative_logprob) == (None, None)
    assert (last.num_cached_tokens, last.metrics) == (2, RequestMetrics(total_time=1.0))
    assert harness.processor.num_requests == 0


def test_eos_is_counted_but_not_shown(info: ModelInfo, byte_level: Tokenizer) -> None:
    eos = byte_level.eos_token_id or -1
    for sampling in (SamplingParams(), SamplingParams(skip_special_tokens=False)):
        harness = start(info, byte_level, sampling)
        harness.feed(news([*letters(byte_level, "hi"), eos], finish_reason="stop"))
        answer = harness.last.outputs[0]
        assert (answer.text, answer.token_ids[-1]) == ("hi", eos)
        assert (answer.finish_reason, answer.stop_reason) == ("stop", None)


@pytest.mark.parametrize(("include", "text"), [(False, "hi"), (True, "hi!")])
def test_text_of_a_stop_token(
    info: ModelInfo, byte_level: Tokenizer, include: bool, text: str
) -> None:
    stop_token = byte_level.encode("!")[0]
    sampling = SamplingParams(
        stop_token_ids=(stop_token,), include_stop_str_in_output=include, logprobs=0
    )
    harness = start(info, byte_level, sampling)
    ids = letters(byte_level, "hi!")
    logprobs = [entry(token) for token in ids]
    harness.feed(news(ids, finish_reason="stop", stop_reason=stop_token, logprobs=logprobs))
    answer = harness.last.outputs[0]
    assert (answer.text, answer.token_ids, answer.stop_reason) == (text, ids, stop_token)
    assert len(answer.logprobs or []) == 3


def test_stop_string_ends_the_answer_and_aborts_the_sequence(
    info: ModelInfo, byte_level: Tokenizer
) -> None:
    harness = start(info, byte_level, SamplingParams(stop="END", logprobs=1))
    ids = letters(byte_level, "one ENDtwo")
    harness.feed(news(ids, logprobs=[entry(token) for token in ids]))
    assert harness.aborted == ["r"]
    answer = harness.last.outputs[0]
    assert harness.last.finished
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("one ", "stop", "END")
    assert answer.token_ids == ids[:7]
    assert len(answer.logprobs or []) == 7
    harness.feed(news(ids), news([], finish_reason="abort"))
    assert len(harness.reports) == 1
    assert harness.aborted == ["r"]


def test_stop_string_in_the_last_tokens_needs_no_abort(
    info: ModelInfo, byte_level: Tokenizer
) -> None:
    harness = start(info, byte_level, SamplingParams(stop="END"))
    harness.feed(news(letters(byte_level, "aEND"), finish_reason="length"))
    answer = harness.last.outputs[0]
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("a", "stop", "END")
    assert harness.aborted == []


def test_held_back_text_comes_with_the_end(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(stop="END"), delta=True)
    harness.feed(news(letters(byte_level, "aEN")))
    harness.feed(news([], finish_reason="abort"))
    assert [report.outputs[0].text for report in harness.reports] == ["a", "EN"]
    assert harness.last.outputs[0].finish_reason == "abort"


def test_n_answers_in_one_report(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(n=2, stop="!"))
    harness.feed(
        news(letters(byte_level, "a"), "r-0", metrics=None),
        news(letters(byte_level, "b"), "r-1"),
    )
    assert [answer.text for answer in harness.last.outputs] == ["a", "b"]
    metrics = RequestMetrics(time_to_first_token=2.0, total_time=3.0, num_preemptions=1)
    harness.feed(news(letters(byte_level, "!"), "r-1"))
    assert harness.aborted == ["r-1"]
    assert not harness.last.finished
    harness.feed(news([7], "r-0", finish_reason="stop", metrics=metrics))
    assert harness.last.finished
    assert [answer.text for answer in harness.last.outputs] == ["a", "b"]
    assert [answer.index for answer in harness.last.outputs] == [0, 1]
    assert harness.last.metrics == metrics


def test_delta_reports_hold_only_answers_with_news(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(n=2), delta=True)
    harness.feed(news(letters(byte_level, "a"), "r-1"))
    assert [(answer.index, answer.text) for answer in harness.last.outputs] == [(1, "a")]
    harness.feed(news(letters(byte_level, "b"), "r-0", finish_reason="length"))
    assert [(answer.index, answer.text) for answer in harness.last.outputs] == [(0, "b")]
    assert not harness.last.finished


def test_metrics_of_several_answers_are_merged(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(n=2))
    for i, (first, total) in enumerate([(2.0, 3.0), (1.0, 5.0)]):
        metrics = RequestMetrics(time_to_first_token=first, total_time=total, num_preemptions=1)
        harness.feed(news([], f"r-{i}", finish_reason="length", metrics=metrics))
    assert harness.last.metrics == RequestMetrics(
        time_to_first_token=1.0, total_time=5.0, num_preemptions=2
    )


@settings(max_examples=80, deadline=None)
@given(
    ids=st.lists(st.integers(0, 405), min_size=1, max_size=16),
    stop=st.sampled_from([None, "e", "th", " ", "\ufffd"]),
    data=st.data(),
)
def test_deltas_join_to_the_cumulative_answer_at_every_split(
    info: ModelInfo, byte_level: Tokenizer, ids: list[int], stop: str | None, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    sampling = SamplingParams(stop=stop, logprobs=1)
    ends = []
    for delta, borders in ((False, []), (False, cuts), (True, cuts)):
        harness = start(info, byte_level, sampling, delta=delta)
        for a, b in itertools.pairwise([0, *borders, len(ids)]):
            part = ids[a:b]
            end = "length" if b == len(ids) else None
            logprobs = [entry(token) for token in part]
            harness.feed(news(part, logprobs=logprobs, finish_reason=end))
        answers = [report.outputs[0] for report in harness.reports]
        whole = answers if delta else answers[-1:]
        ends.append(
            (
                "".join(answer.text for answer in whole),
                [token for answer in whole for token in answer.token_ids],
                [found for answer in whole for found in answer.logprobs or []],
                answers[-1].cumulative_logprob,
                answers[-1].finish_reason,
                answers[-1].stop_reason,
                harness.last.finished,
            )
        )
        assert harness.processor.num_requests == 0
    assert ends[0] == ends[1] == ends[2]


def test_logprobs_are_decoded_and_summed(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(logprobs=1))
    ids = letters(byte_level, "hi")
    harness.feed(news(ids, logprobs=[entry(token, -0.25) for token in ids], finish_reason="length"))
    answer = harness.last.outputs[0]
    assert answer.cumulative_logprob == -0.5
    assert answer.logprobs is not None
    assert answer.logprobs[0][ids[0]] == Logprob(-0.25, 1, "h")
    assert answer.logprobs[0][5] == Logprob(-2.0, 2, byte_level.token_text(5))


def test_prompt_logprobs_come_once_in_delta_and_always_in_cumulative(
    info: ModelInfo, byte_level: Tokenizer
) -> None:
    token = byte_level.encode("o")[0]
    for delta in (True, False):
        harness = start(info, byte_level, SamplingParams(prompt_logprobs=1), delta=delta)
        harness.feed(news([token], prompt_logprobs=[None, entry(token)]))
        harness.feed(news([token], finish_reason="length"))
        other = Logprob(-2.0, 2, byte_level.token_text(5))
        expected = [None, {token: Logprob(-0.5, 1, "o"), 5: other}]
        found = [report.prompt_logprobs for report in harness.reports]
        assert found == [expected, None if delta else expected]


def test_final_only_reports_once(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(n=2), final_only=True)
    for sequence in ("r-0", "r-1"):
        harness.feed(news(letters(byte_level, "a"), sequence))
        harness.feed(news(letters(byte_level, "b"), sequence, finish_reason="length"))
    assert len(harness.reports) == 1
    assert [answer.text for answer in harness.last.outputs] == ["ab", "ab"]


def test_failed_sequence_carries_its_message(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams())
    harness.feed(news([], finish_reason="error", error="the logits are not finite"))
    answer = harness.last.outputs[0]
    assert harness.last.finished
    assert (answer.finish_reason, answer.stop_reason) == ("error", "the logits are not finite")


def test_without_detokenizing_there_are_only_ids(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams(detokenize=False, logprobs=1))
    harness.feed(news([4], logprobs=[entry(4)], finish_reason="length"))
    answer = harness.last.outputs[0]
    assert (answer.text, answer.token_ids) == ("", [4])
    assert answer.logprobs == [entry(4)]


def test_abort_names_the_unfinished_sequences_and_forgets_the_request(
    info: ModelInfo, byte_level: Tokenizer
) -> None:
    harness = start(info, byte_level, SamplingParams(n=3))
    harness.feed(news([4], "r-1", finish_reason="length"))
    assert harness.processor.abort("r") == ["r-0", "r-2"]
    assert harness.processor.abort("r") == []
    harness.feed(news([4], "r-0"), news([4], "r-2", finish_reason="abort"))
    assert len(harness.reports) == 1
    assert harness.processor.num_requests == 0


@pytest.mark.parametrize("request_id", ["r", "r-1"])
def test_request_id_in_use_is_refused(
    info: ModelInfo, byte_level: Tokenizer, request_id: str
) -> None:
    harness = start(info, byte_level, SamplingParams(n=2))
    again = processed(info, byte_level, SamplingParams(), request_id)
    with pytest.raises(RequestError, match="already in use") as caught:
        harness.processor.add(again, delta=False)
    assert caught.value.param == "request_id"
    harness.processor.abort("r")
    harness.processor.add(again, delta=False)
    assert harness.processor.num_requests == 1


def test_requests_do_not_mix(info: ModelInfo, byte_level: Tokenizer) -> None:
    harness = start(info, byte_level, SamplingParams())
    harness.processor.add(processed(info, byte_level, SamplingParams(), "other"), delta=False)
    harness.feed(
        news(letters(byte_level, "a")), news(letters(byte_level, "b"), "other"), news([9], "who")
    )
    texts = {report.request_id: report.outputs[0].text for report in harness.reports}
    assert texts == {"r": "a", "other": "b"}
