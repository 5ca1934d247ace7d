"""`litellm`: chat, text completions, Anthropic messages, its classes of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

litellm = pytest.importorskip("litellm", reason="the extra 'clients' is not installed")

if TYPE_CHECKING:
    from tests.clients.conftest import Served

pytestmark = pytest.mark.filterwarnings("default")
"""What others' packages warn of is theirs."""

MESSAGES = [{"role": "user", "content": "Hello! Who are you?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "haul",
        "parameters": {
            "type": "object",
            "properties": {"metres": {"type": "integer"}},
            "required": ["metres"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def options(served: Served) -> dict[str, Any]:
    return {
        "model": f"hosted_vllm/{served.model}",
        "api_base": served.api,
        "api_key": served.key,
        "max_tokens": 64,
        "num_retries": 0,
    }


def test_chat(options: dict[str, Any]) -> None:
    answer = litellm.completion(messages=MESSAGES, **options)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_a_stream(options: dict[str, Any]) -> None:
    chunks = list(litellm.completion(messages=MESSAGES, stream=True, temperature=0, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = litellm.completion(messages=MESSAGES, temperature=0, **options)
    assert text == whole.choices[0].message.content


def test_a_tool_is_called(options: dict[str, Any]) -> None:
    answer = litellm.completion(
        messages=MESSAGES,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        **options,
    )
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "haul"


def test_text_completion(options: dict[str, Any], served: Served) -> None:
    text = {**options, "model": f"text-completion-openai/{served.model}"}
    assert litellm.text_completion(prompt="The windlass", **text).choices[0].text


def test_a_prompt_too_long_is_its_context_window_error(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "rope " * 5000}], **options)


def test_a_wrong_key_is_its_authentication_error(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=MESSAGES, **{**options, "api_key": "wrong"})
