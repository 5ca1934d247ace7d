from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from windlass.config import ModelInfo
from windlass.errors import ContextLengthError, RequestError
from windlass.request import Request, SamplingParams
from windlass.text import InputProcessor, Prompt, Tokenizer

CONTEXT = 32
VOCAB = 512


@pytest.fixture
def processor(info: ModelInfo, byte_level: Tokenizer) -> InputProcessor:
    return InputProcessor(info, byte_level)


def refusal(
    processor: InputProcessor,
    prompt: Any = "Hello",
    sampling: SamplingParams | None = None,
    request_id: str = "r",
    **options: Any,
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        processor.process(request_id, prompt, sampling or SamplingParams(), **options)
    return caught.value


def test_text_prompt_becomes_one_sequence(processor: InputProcessor, byte_level: Tokenizer) -> None:
    sampling = SamplingParams(max_tokens=5, seed=3, temperature=0.5)
    processed = processor.process(
        "r", "Hello", sampling, priority=2, cache_salt="tenant", arrival_time=1.5
    )
    ids = byte_level.encode("Hello")
    assert (processed.request_id, processed.prompt) == ("r", "Hello")
    assert processed.prompt_token_ids == ids
    assert processed.sampling == sampling
    assert processed.requests == [
        Request(
            request_id="r",
            prompt_token_ids=ids,
            sampling=sampling,
            eos_token_ids=(7, byte_level.eos_token_id or -1),
            arrival_time=1.5,
            priority=2,
            cache_salt="tenant",
        )
    ]


@pytest.mark.parametrize(
    ("prompt", "text", "salt"),
    [
        ([1, 2], None, "argument"),
        ({"prompt_token_ids": [1, 2]}, None, "argument"),
        ({"prompt_token_ids": [1, 2], "prompt": "shown", "cache_salt": "own"}, "shown", "own"),
    ],
)
def test_prompts_of_token_ids(
    processor: InputProcessor, prompt: Prompt, text: str | None, salt: str
) -> None:
    processed = processor.process("r", prompt, SamplingParams(), cache_salt="argument")
    assert (processed.prompt, processed.prompt_token_ids) == (text, [1, 2])
    assert processed.requests[0].cache_salt == salt


def test_text_prompt_in_a_dict(processor: InputProcessor, byte_level: Tokenizer) -> None:
    processed = processor.process("r", {"prompt": "Hello", "cache_salt": "s"}, SamplingParams())
    assert processed.prompt_token_ids == byte_level.encode("Hello")
    assert processed.requests[0].cache_salt == "s"


def test_n_sequences_have_their_own_ids_and_seeds(processor: InputProcessor) -> None:
    sampling = SamplingParams(n=3, seed=2**63 - 2, prompt_logprobs=1, max_tokens=4)
    processed = processor.process("r", [1], sampling)
    assert processed.sampling.n == 3
    assert [request.request_id for request in processed.requests] == ["r-0", "r-1", "r-2"]
    each = [request.sampling for request in processed.requests]
    assert [params.seed for params in each] == [2**63 - 2, 2**63 - 1, 0]
    assert [params.n for params in each] == [1, 1, 1]
    assert [params.prompt_logprobs for params in each] == [1, None, None]


def test_random_seed_when_none_is_given(processor: InputProcessor) -> None:
    seeds = {processor.process("r", [1], SamplingParams()).sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)


def test_negative_seed_is_taken_modulo(processor: InputProcessor) -> None:
    assert processor.process("r", [1], SamplingParams(seed=-1)).sampling.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, 22), (21, 21), (22, 22), (23, 22), (10**9, 22)]
)
def test_max_tokens_is_cut_to_the_rest_of_the_context(
    processor: InputProcessor, wanted: int | None, given: int
) -> None:
    processed = processor.process("r", [1] * 10, SamplingParams(max_tokens=wanted))
    assert processed.requests[0].sampling.max_tokens == given


def test_min_tokens_must_fit_the_rest_of_the_context(processor: InputProcessor) -> None:
    fitting = SamplingParams(min_tokens=22, max_tokens=None)
    assert processor.process("r", [1] * 10, fitting).sampling.min_tokens == 22
    error = refusal(processor, [1] * 10, SamplingParams(min_tokens=23, max_tokens=None))
    assert error.param == "min_tokens"
    assert error.message == (
        "min_tokens is 23, but a prompt of 10 tokens leaves room for 22 in this model's context "
        "of 32."
    )


def test_prompt_must_leave_room_for_one_token(processor: InputProcessor) -> None:
    processed = processor.process("r", [1] * (CONTEXT - 1), SamplingParams())
    assert processed.sampling.max_tokens == 1
    error = refusal(processor, [1] * CONTEXT)
    assert isinstance(error, ContextLengthError)
    assert (error.param, error.code) == ("prompt", "context_length_exceeded")
    assert error.message == (
        "This model's maximum context length is 32 tokens. However, your prompt has 32 tokens. "
        "Shorten it to at most 31, so that there is room for an answer."
    )


def test_far_too_long_text_is_refused_before_it_is_tokenised(
    processor: InputProcessor, byte_level: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = byte_level.longest_token
    error = refusal(processor, "ab" * 32)
    assert "your prompt has 64 tokens" in error.message
    monkeypatch.setattr(Tokenizer, "encode", None)
    error = refusal(processor, "a" * (CONTEXT * longest + 1))
    assert isinstance(error, ContextLengthError)
    assert "your prompt has at least 33 tokens" in error.message


@pytest.mark.parametrize("prompt", ["", [], {"prompt": ""}, {"prompt_token_ids": []}])
def test_empty_prompt(processor: InputProcessor, prompt: Prompt) -> None:
    error = refusal(processor, prompt)
    assert (error.param, error.message) == ("prompt", "prompt must not be empty.")


@pytest.mark.parametrize("token", [-1, VOCAB, 2**70])
def test_ids_outside_the_vocabulary(processor: InputProcessor, token: int) -> None:
    assert processor.process("r", [0, VOCAB - 1], SamplingParams()).prompt_token_ids == [0, 511]
    error = refusal(processor, [1, token])
    assert error.param == "prompt"
    assert error.message == (
        f"prompt holds the token id {token}; this model's ids go from 0 to 511."
    )


def test_text_with_a_token_that_the_model_lacks(info: ModelInfo, byte_level: Tokenizer) -> None:
    small = InputProcessor(replace(info, vocab_size=byte_level.vocab_size - 1), byte_level)
    assert "holds the token id" in refusal(small, "<think>").message


def test_stop_token_ids_and_logit_bias_stay_in_the_vocabulary(processor: InputProcessor) -> None:
    fitting = SamplingParams(stop_token_ids=(VOCAB - 1,), logit_bias={VOCAB - 1: 1.0})
    assert processor.process("r", [1], fitting).requests[0].sampling.stop_token_ids == (511,)
    for name, sampling in (
        ("stop_token_ids", SamplingParams(stop_token_ids=(VOCAB,))),
        ("logit_bias", SamplingParams(logit_bias={VOCAB: 1.0})),
    ):
        error = refusal(processor, [1], sampling)
        assert error.param == name
        assert error.message == f"{name} holds the token id 512; this model's ids go from 0 to 511."


@pytest.mark.parametrize(
    "prompt",
    [
        *(3, None, (1, 2), b"x", [1.0], [True], ["a"], [[1]]),
        {"prompt_token_ids": "12"},
        {"prompt": 3},
        {"prompt": "x", "cache_salt": 3},
    ],
)
def test_prompts_of_the_wrong_type(processor: InputProcessor, prompt: object) -> None:
    error = refusal(processor, prompt)
    assert (error.param, error.code) == ("prompt", "invalid_type")


@pytest.mark.parametrize(
    ("prompt", "end"),
    [({}, "cache_salt."), ({"prompt": "x", "multi_modal_data": 1}, "Unknown: multi_modal_data.")],
)
def test_prompt_dicts_with_other_keys(
    processor: InputProcessor, prompt: dict[str, object], end: str
) -> None:
    error = refusal(processor, prompt)
    assert error.message.startswith("A prompt dict has prompt or prompt_token_ids")
    assert error.message.endswith(end)


def test_cache_salt_limit_in_bytes(processor: InputProcessor) -> None:
    processed = processor.process("r", [1], SamplingParams(), cache_salt="\u00e9" * 512)
    assert processed.requests[0].cache_salt == "\u00e9" * 512
    error = refusal(processor, [1], cache_salt="\u00e9" * 512 + "x")
    assert error.param == "cache_salt"
    assert error.message == "cache_salt must be at most 1024 bytes."


@pytest.mark.parametrize("request_id", ["", "a" * 129, "a b", "a\n", "\u00e9", "a/b"])
def test_request_ids(processor: InputProcessor, request_id: str) -> None:
    longest = "Az09._:-" * 16
    assert processor.process(longest, [1], SamplingParams()).requests[0].request_id == longest
    error = refusal(processor, [1], request_id=request_id)
    assert error.param == "request_id"
    assert error.message == "request_id must be 1 to 128 letters, digits or . _ : - characters."


def test_priority_is_a_64_bit_integer(processor: InputProcessor) -> None:
    for priority in (-(2**63), 2**63 - 1):
        processed = processor.process("r", [1], SamplingParams(), priority=priority)
        assert processed.requests[0].priority == priority
    for priority in (-(2**63) - 1, 2**63):
        error = refusal(processor, [1], priority=priority)
        assert error.message == "priority must be a 64-bit integer."


def test_unpaired_surrogates_never_reach_the_engine(processor: InputProcessor) -> None:
    assert refusal(processor, "a\ud800").param == "prompt"
    assert refusal(processor, [1], SamplingParams(stop="\udfff")).param == "stop"
    assert refusal(processor, [1], cache_salt="\udfff").param == "cache_salt"
