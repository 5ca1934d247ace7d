"""Schemas are enforced in full, or refused with the keyword named."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher
from output_judge import LIMITS, TOKENIZER, accepts, fault, grammar_of, walks

from windlass.errors import RequestError
from windlass.request import SamplingParams, StructuredOutputs
from windlass.structured_output.json_schema import FORMATS
from windlass.structured_output.matcher import compile_matcher, write_constraint
from windlass.testing.json_schemas import REFUSED, SCHEMAS


def compiled(schema: Any) -> LLMatcher:
    params = SamplingParams(structured_outputs=StructuredOutputs(json=schema))
    return compile_matcher(TOKENIZER, write_constraint(params, LIMITS))


def test_there_are_a_hundred_schemas() -> None:
    assert len(SCHEMAS) >= 100


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_outputs_satisfy_their_schema(name: str) -> None:
    schema = SCHEMAS[name]
    compiled(schema)
    finished = list(walks(grammar_of(schema), 8))
    assert finished
    assert [found for text in finished if (found := fault(schema, text))] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_guaranteed_is_refused_with_the_keyword_named(name: str) -> None:
    schema, keyword = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        compiled(schema)
    assert caught.value.code in ("unsupported_json_schema", "invalid_json_schema")
    assert caught.value.param == "structured_outputs"
    assert repr(keyword) in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        # Names and characters written as escapes do not get around what they stand for.
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, r'{"\u0061": "x"}'),
        (
            {
                "type": "object",
                "patternProperties": {"^n": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
            },
            r'{"\u006e": "x"}',
        ),
        ({"type": "string", "pattern": '^[^a"]+$'}, r'"b\""'),
        ({"type": "string", "pattern": '^[^a"]+$'}, r'"\u0061"'),
        ({"type": "string", "format": "date"}, '"2023-02-29"'),
        ({"type": "string", "format": "date"}, '"1900-02-29"'),
        ({"type": "string", "format": "time"}, '"23:59:60Z"'),
        ({"type": "integer", "format": "int32"}, "2147483648"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.25}, "0"),
        ({"type": "number", "exclusiveMinimum": 10, "exclusiveMaximum": 10.5}, "10"),
        ({"allOf": [{"exclusiveMaximum": 0, "type": "number"}, {"minimum": -0.5}]}, "-0"),
        ({"type": "string", "minLength": 2}, '"é"'),
        ({"type": "string"}, r'"\ud800"'),
        ({"type": "object"}, '{"a": NaN}'),
    ],
)
def test_outputs_that_only_seem_valid_are_not_allowed(schema: Any, wrong: str) -> None:
    assert not accepts(grammar_of(schema), wrong)


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        ({"type": "string", "format": "date"}, '"2024-02-29"'),
        ({"type": "string", "format": "date"}, '"2000-02-29"'),
        ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, "[1]"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, "4"),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, "4"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "0.001"),
        ({"type": "string", "nullable": True, "x-order": 3}, '"a"'),
        ({"type": "string", "maxLength": 2.0}, '"ab"'),
        ({"type": "object"}, '{\n  "a": [\n    1\n  ]\n}'),
        (True, "[]"),
        ({}, "null"),
    ],
)
def test_outputs_that_are_valid_are_allowed(schema: Any, right: str) -> None:
    grammar = grammar_of(schema if isinstance(schema, dict) else "true")
    assert accepts(grammar, right)


def test_every_format_that_is_told_is_enforced() -> None:
    for name in FORMATS:
        assert not accepts(grammar_of({"type": "string", "format": name}), '"no such thing !"')


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


def test_depth_is_bounded() -> None:
    compiled(nested(LIMITS.max_depth))
    with pytest.raises(RequestError, match="nested more than 64 deep"):
        compiled(nested(LIMITS.max_depth + 1))


def test_length_is_bounded() -> None:
    text = '{"type": "integer", "description": "%s"}'
    room = LIMITS.max_bytes - len(text) + 2
    compiled(text % ("x" * room))
    with pytest.raises(RequestError) as caught:
        compiled(text % ("x" * (room + 1)))
    assert caught.value.code == "grammar_too_complex"


def test_large_tool_sets_and_long_strings_are_accepted() -> None:
    tools = [
        {
            "type": "object",
            "properties": {
                "name": {"const": f"tool_{i}"},
                "arguments": {
                    "type": "object",
                    "properties": {
                        f"p{j}": {"type": "string", "description": "x" * 150} for j in range(10)
                    },
                    "required": ["p0"],
                    "additionalProperties": False,
                },
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i in range(58)
    ]
    compiled({"anyOf": tools})
    compiled({"type": "string", "maxLength": 524288})


@pytest.mark.parametrize("wrong", ["{", "[1]", "3", '{"minimum": NaN}', '{"minimum": 1e999}', ""])
def test_text_that_is_no_schema_is_refused(wrong: str) -> None:
    with pytest.raises(RequestError) as caught:
        compiled(wrong)
    assert caught.value.code == "invalid_json_schema"


def test_a_schema_that_allows_nothing_is_refused() -> None:
    for schema in ("false", {"type": "integer", "minimum": 5, "maximum": 3}):
        with pytest.raises(RequestError) as caught:
            compiled(schema)
        assert caught.value.code == "invalid_json_schema"
