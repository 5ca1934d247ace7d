"""Tools and formats that every client can rely on: calls are always calls of the tools given."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

if TYPE_CHECKING:
    from tests.clients.conftest import Served

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"rope": {"type": "integer"}, "side": {"enum": ["port", "starboard"]}},
    "required": ["rope", "side"],
    "additionalProperties": False,
}
ASK: Any = [{"role": "user", "content": "Haul the third rope on the port side."}]
TOOL: Any = {"type": "function", "function": {"name": "haul", "parameters": SCHEMA}}


class Rope(BaseModel):
    """What an answer shall be."""

    number: int
    wet: bool


def check_arguments(arguments: Any) -> None:
    assert set(arguments) == {"rope", "side"}
    assert isinstance(arguments["rope"], int)
    assert arguments["side"] in ("port", "starboard")


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_required_tool_is_called_with_arguments_of_its_schema(
    served: Served, temperature: float
) -> None:
    with openai.OpenAI(base_url=served.api, api_key=served.key) as client:
        answer = client.chat.completions.create(
            model=served.model,
            messages=ASK,
            tools=[TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=temperature,
        )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "haul"
    check_arguments(json.loads(call.function.arguments))


def test_a_streamed_call_is_put_together_by_the_client(served: Served) -> None:
    with (
        openai.OpenAI(base_url=served.api, api_key=served.key) as client,
        client.chat.completions.stream(
            model=served.model,
            messages=ASK,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "haul"}},
            parallel_tool_calls=False,
        ) as stream,
    ):
        completion = stream.get_final_completion()
    (call,) = completion.choices[0].message.tool_calls or ()
    check_arguments(json.loads(call.function.arguments))


def test_a_tool_of_a_response_is_called(served: Served) -> None:
    tool: Any = {"type": "function", "name": "haul", "parameters": SCHEMA, "strict": True}
    with openai.OpenAI(base_url=served.api, api_key=served.key) as client:
        response = client.responses.create(
            model=served.model,
            input="Haul!",
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
        )
    (call,) = [item for item in response.output if item.type == "function_call"]
    check_arguments(json.loads(call.arguments))


def test_a_tool_of_a_message_is_used(served: Served) -> None:
    tool: Any = {"name": "haul", "input_schema": SCHEMA}
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    with (
        anthropic.Anthropic(base_url=served.url, api_key=served.key) as client,
        client.messages.stream(
            model=served.model, max_tokens=200, messages=ASK, tools=[tool], tool_choice=choice
        ) as stream,
    ):
        message = stream.get_final_message()
    (block,) = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    check_arguments(block.input)


def test_an_answer_is_parsed_into_a_class(served: Served) -> None:
    with openai.OpenAI(base_url=served.api, api_key=served.key) as client:
        answer = client.chat.completions.parse(
            model=served.model, messages=ASK, response_format=Rope
        )
        response = client.responses.parse(model=served.model, input="Rope?", text_format=Rope)
    assert isinstance(answer.choices[0].message.parsed, Rope)
    assert isinstance(response.output_parsed, Rope)
