"""What SamplingParams and StructuredOutputs take and refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from windlass.errors import RequestError
from windlass.request import (
    MAX_BAD_WORD_BYTES,
    MAX_BAD_WORDS,
    MAX_CHOICES,
    SamplingParams,
    StructuredOutputs,
)

DIGITS = StructuredOutputs(regex="[0-9]+")


@pytest.mark.parametrize(
    "constraint",
    [
        StructuredOutputs(json={"type": "object"}),
        StructuredOutputs(json="true"),
        StructuredOutputs(json_object=True),
        StructuredOutputs(regex=""),
        StructuredOutputs(choice=("yes", "no")),
        StructuredOutputs(grammar='start: "a"'),
    ],
    ids=lambda constraint: constraint.kind,
)
def test_a_constraint_arrives_in_the_engine_as_it_was(constraint: StructuredOutputs) -> None:
    params = SamplingParams(structured_outputs=constraint)
    sent = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(sent, type=SamplingParams) == params


@pytest.mark.parametrize("wrong", [{}, {"regex": "a", "grammar": "b"}, {"json_object": False}])
def test_exactly_one_constraint_is_set(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="exactly one") as caught:
        StructuredOutputs(**wrong)
    assert caught.value.param == "structured_outputs"


def test_choices_are_bounded() -> None:
    most = tuple(str(i) for i in range(MAX_CHOICES))
    assert StructuredOutputs(choice=most).kind == "choice"
    for wrong in ((), (*most, "one more")):
        with pytest.raises(RequestError, match="from 1 to"):
            StructuredOutputs(choice=wrong)


def test_bad_words_are_bounded() -> None:
    SamplingParams(bad_words=["x" * MAX_BAD_WORD_BYTES] * MAX_BAD_WORDS)
    for wrong in (["x"] * (MAX_BAD_WORDS + 1), ["x" * (MAX_BAD_WORD_BYTES + 1)], [""]):
        with pytest.raises(RequestError) as caught:
            SamplingParams(bad_words=wrong)
        assert caught.value.param == "bad_words"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [3, -1]}, "allowed_token_ids"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"structured_outputs": DIGITS, "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"structured_outputs": DIGITS, "bad_words": ["a"]}, "bad_words"),
        ({"allowed_token_ids": [1], "bad_words": ["a"]}, "bad_words"),
        ({"structured_outputs": DIGITS, "ignore_eos": True}, "ignore_eos"),
        ({"structured_outputs": DIGITS, "min_tokens": 2}, "min_tokens"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**wrong)
    assert caught.value.param == param


@pytest.mark.parametrize("keep", [-1, 1, 10**9])
def test_a_prompt_may_be_cut_to_any_length(keep: int) -> None:
    assert SamplingParams(truncate_prompt_tokens=keep).truncate_prompt_tokens == keep
