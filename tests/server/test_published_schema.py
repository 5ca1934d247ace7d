"""The checker of bodies finds what the clients' packages let pass."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseStreamEvent
from published_schema import check, parse_sse
from pydantic import ValidationError

MESSAGE: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
BODY: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}],
}


def changed(**change: Any) -> dict[str, Any]:
    choice = {**BODY["choices"][0], "message": {**MESSAGE, **change}}
    return {**BODY, "choices": [choice]}


def test_a_body_that_fits_is_returned() -> None:
    assert check(BODY, ChatCompletion).choices[0].message.content is None


@pytest.mark.parametrize("key", ["annotations", "audio", "function_call", "tool_calls"])
def test_a_null_where_the_key_should_be_absent_is_found(key: str) -> None:
    ChatCompletion.model_validate(changed(**{key: None}), strict=True)
    with pytest.raises(AssertionError, match=key):
        check(changed(**{key: None}), ChatCompletion)


@pytest.mark.parametrize(
    "body",
    [
        {key: value for key, value in BODY.items() if key != "created"},
        {**BODY, "object": "completion"},
        {**BODY, "created": "1"},
        changed(role="user"),
    ],
)
def test_a_missing_key_or_a_wrong_value_is_found(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check(body, ChatCompletion)


def test_an_event_of_an_unknown_type_is_found() -> None:
    with pytest.raises(ValidationError):
        check({"type": "response.other", "sequence_number": 0}, ResponseStreamEvent)


def test_events_are_read_with_their_names() -> None:
    text = "event: a\ndata: 1\n\n: keep-alive\n\ndata: [DONE]\n\n"
    assert parse_sse(text) == [("a", "1"), (None, "[DONE]")]
