from __future__ import annotations

import pytest
from msgspec.structs import replace

from windlass.engine.request_limits import check_request, context_limit
from windlass.errors import ContextLengthError, RequestError
from windlass.request import Request, SamplingParams, StructuredOutputs
from windlass.testing.content_runner import ContentRunner

INFO = ContentRunner(num_blocks=100, block_size=4, max_model_len=32, vocab_size=50).info
SMALL_CACHE = ContentRunner(num_blocks=4, block_size=4, max_model_len=32, vocab_size=50).info


def request(prompt: list[int], **sampling: object) -> Request:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return Request(request_id="r", prompt_token_ids=prompt, sampling=params)


def test_outputs_are_bounded_by_the_request_and_by_the_context() -> None:
    assert check_request(request([1] * 10, max_tokens=5), INFO) == 5
    assert check_request(request([1] * 10, max_tokens=100), INFO) == 22
    assert check_request(request([1] * 10, max_tokens=None), INFO) == 22


def test_small_cache_is_the_context_the_last_token_needs_no_slot() -> None:
    assert context_limit(INFO) == 32
    assert context_limit(SMALL_CACHE) == 3 * 4 + 1
    assert check_request(request([1] * 12, max_tokens=9), SMALL_CACHE) == 1


@pytest.mark.parametrize(("info", "longest"), [(INFO, 31), (SMALL_CACHE, 12)])
def test_longest_prompt_leaves_room_for_one_output(info: object, longest: int) -> None:
    assert check_request(request([1] * longest), info) == 1  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match=f"shorten the prompt to {longest} tokens"):
        check_request(request([1] * (longest + 1)), info)  # type: ignore[arg-type]


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one token"):
        check_request(request([]), INFO)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (request([1, 50]), "prompt"),
        (request([-1]), "prompt"),
        (request([1], stop_token_ids=(50,)), "stop_token_ids"),
        (request([1], logit_bias={50: 1.0}), "logit_bias"),
    ],
)
def test_token_outside_the_vocabulary_is_refused_and_named(wrong: Request, param: str) -> None:
    with pytest.raises(RequestError, match="ids go from 0 to 49") as caught:
        check_request(wrong, INFO)
    assert caught.value.param == param


def test_every_token_of_the_vocabulary_is_accepted() -> None:
    accepted = request([0, 49], stop_token_ids=(0, 49), logit_bias={0: 1.0, 49: -1.0}, max_tokens=3)
    assert check_request(accepted, INFO) == 3


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        ({"structured_outputs": StructuredOutputs(regex="a")}, "structured_outputs"),
        ({"bad_words": ["a"]}, "bad_words"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"extra_args": {"p": 1}}, "extra_args"),
    ],
)
def test_a_runner_that_cannot_restrict_tokens_says_so(
    sampling: dict[str, object], param: str
) -> None:
    with pytest.raises(RequestError, match=f"{param} is not supported") as caught:
        check_request(request([1], **sampling), INFO)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_allowed_tokens_and_processors_are_checked() -> None:
    able = replace(INFO, structured_outputs=True, logits_processors=("p",))
    check_request(request([1], allowed_token_ids=[*range(50)], extra_args={"p": 1}), able)
    for sampling, text in (
        ({"allowed_token_ids": [50]}, "ids go from 0 to 49"),
        ({"allowed_token_ids": [1] * 51}, "has 51 entries"),
        ({"allowed_token_ids": [7], "stop_token_ids": (7,), "min_tokens": 1}, "only tokens that"),
        ({"extra_args": {"q": 1}}, "not enabled here: 'q'"),
    ):
        with pytest.raises(RequestError, match=text):
            check_request(request([1], **sampling), able)
