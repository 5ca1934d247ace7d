"""A conversation with calls is given to each template in the shape that it can show."""

from __future__ import annotations

import json
from typing import Any

from answers import TOOLS

from windlass.request import SamplingParams
from windlass_server.chat.call import ChatCall
from windlass_server.formats.detect import detect

KNOWS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"


def function_call(call_id: str, metres: int) -> dict[str, Any]:
    function = {"name": "haul", "arguments": {"metres": metres}}
    return {"id": call_id, "type": "function", "function": function}


TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Haul!"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Both.",
        "tool_calls": [function_call("call_1", 1), function_call("call_2", 2)],
    },
    {"role": "tool", "tool_call_id": "call_2", "content": "two"},
    {"role": "tool", "tool_call_id": "call_1", "content": "one"},
]


def prepared(template: str, **options: Any) -> list[dict[str, Any]]:
    call = ChatCall(messages=TURNS, sampling=SamplingParams(), tools=TOOLS)
    return detect(template, {}, **options).prepared(call).messages


def test_most_templates_take_a_conversation_as_it_is() -> None:
    assert prepared(KNOWS_TOOLS + "<tool_call>") == TURNS


def test_a_template_that_shows_nothing_is_given_text() -> None:
    system, user, calls, *results = prepared("{{ messages }}")
    assert '"name": "haul"' in system["content"]
    assert user == TURNS[0]
    assert calls["role"] == "assistant"
    assert calls["content"].count("<tool_call>") == 2
    assert [result["role"] for result in results] == ["user", "user"]
    assert results[0]["content"] == "<tool_response>\ntwo\n</tool_response>"


def test_tools_are_told_in_the_syntax_that_is_read() -> None:
    system = prepared("{{ messages }}", tool_call_parser="qwen3_coder")[0]
    assert "<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>" in system["content"]


def test_mistral_gets_ids_of_nine_characters_that_go_together() -> None:
    _, calls, *results = prepared(KNOWS_TOOLS + "[TOOL_CALLS]")
    ids = [call["id"] for call in calls["tool_calls"]]
    assert all(len(i) == 9 and i.isalnum() for i in ids)
    assert [result["tool_call_id"] for result in results] == [ids[1], ids[0]]


def test_harmony_gets_one_call_a_message_with_its_result_behind() -> None:
    turns = prepared(KNOWS_TOOLS + "<|channel|><|message|>")
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [turn.get("content") for turn in turns[2::2]] == ["one", "two"]
    assert turns[1]["thinking"] == "Both."


def test_a_template_that_adds_arguments_to_text_gets_text() -> None:
    adds = KNOWS_TOOLS + "<｜tool▁call▁begin｜>{{ '' + call['function']['arguments'] + '' }}"
    _, calls, *_ = prepared(adds)
    assert json.loads(calls["tool_calls"][0]["function"]["arguments"]) == {"metres": 1}
    filters = KNOWS_TOOLS + "<｜tool▁call▁begin｜>{{ call.function.arguments | tojson }}"
    assert prepared(filters) == TURNS
