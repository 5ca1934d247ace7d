"""Checks bodies against the published schemas, as the clients' own packages type them.

A type says more than its package enforces: keys that are required, literal values, and keys that
may be absent but not null. The packages write the last two alike (`Optional[X] = None`), so a null
is accepted only where the key is required or stands in `NULLABLE`, taken from OpenAI's and
Anthropic's API descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

NULLABLE: dict[str, frozenset[str]] = {
    # openai.types.chat
    "Choice": frozenset({"logprobs", "finish_reason"}),
    "ChoiceLogprobs": frozenset({"content", "refusal"}),
    "ChatCompletionMessage": frozenset({"content", "refusal"}),
    "ChatCompletionChunk": frozenset({"usage"}),
    "CompletionChoice": frozenset({"logprobs"}),
    "Logprobs": frozenset({"token_logprobs", "top_logprobs"}),
    "Completion": frozenset({"usage"}),
    # openai.types.responses
    "Response": frozenset(
        {
            "error",
            "incomplete_details",
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "metadata",
            "previous_response_id",
            "reasoning",
            "service_tier",
            "temperature",
            "top_p",
        }
    ),
    "Reasoning": frozenset({"effort", "summary"}),
    "FunctionTool": frozenset({"parameters", "strict"}),
    # openai.types, whose Batch tells of a line or a parameter only where there is one
    "Batch": frozenset({"metadata"}),
    "BatchError": frozenset({"line", "param"}),
    # anthropic.types
    "Message": frozenset({"stop_reason", "stop_sequence"}),
    "Delta": frozenset({"stop_sequence"}),
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check(body: bytes | str | dict[str, Any], kind: Any) -> Any:
    """Return `body` as `kind`, a type or a union of types, after checking it strictly.

    Raises:
        ValidationError, AssertionError: the body does not fit; the text names the key.
    """
    text = json.dumps(body) if isinstance(body, dict) else body
    value = _adapter(kind).validate_json(text, strict=True)
    wrong = list(_nulls(value, json.loads(text), ""))
    assert not wrong, f"null is not allowed at {', '.join(wrong)}"
    return value


def _nulls(value: Any, data: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        kind = type(value)
        for name, field in kind.model_fields.items():
            key = field.alias or name
            if not isinstance(data, dict) or key not in data:
                continue
            inner = f"{path}.{key}"
            if data[key] is None:
                nullable = field.is_required() or key in NULLABLE.get(kind.__name__, ())
                yield from [] if nullable else [f"{kind.__name__}{inner}"]
            else:
                yield from _nulls(getattr(value, name), data[key], inner)
    elif isinstance(value, list):
        for index, (one, its) in enumerate(zip(value, data, strict=True)):
            yield from _nulls(one, its, f"{path}[{index}]")


def parse_sse(text: str) -> list[tuple[str | None, str]]:
    """Return a stream's events as (name, data), comments left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        fields = dict(line.split(": ", 1) for line in lines)
        assert set(fields) <= {"event", "data"}
        events.append((fields.get("event"), fields["data"]))
    return events
