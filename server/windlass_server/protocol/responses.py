"""`/v1/responses`: what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from windlass_server.body import UNION_TAG
from windlass_server.protocol.fields import (
    FIRST_FAULT,
    TEXT,
    Body,
    Integer,
    ModelBody,
    one_of,
    string_or,
)
from windlass_server.protocol.sampling import SamplingFields
from windlass_server.protocol.tools import ToolName

Status = Literal["in_progress", "completed", "incomplete"]
Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
MAX_METADATA = 16
_PARTS, _ITEMS = UNION_TAG + "parts", UNION_TAG + "items"


class Part(Body):
    """A part of a message's content, of an output or of a reasoning."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


Parts = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Part], FIRST_FAULT, Tag(_PARTS)],
    string_or(_PARTS, "a string or an array of content parts"),
]


class MessageItem(Body):
    """Something that somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCallItem(Body):
    """A call that the model made; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionCallOutputItem(Body):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Parts
    id: str | None = None
    status: Status | None = None


class ReasoningItem(Body):
    """What the model thought before it spoke."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[Part], FIRST_FAULT] | None = None
    content: Annotated[list[Part], FIRST_FAULT] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class ItemReference(Body):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: str


class OtherItem(Body):
    """An item of a kind that is not known or not supported."""

    type: str


_KINDS: dict[object, str] = {
    name: UNION_TAG + name
    for name in ("message", "function_call", "function_call_output", "reasoning", "item_reference")
}
_OTHER = UNION_TAG + "other"


def _item_kind(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind is None:
        return _KINDS["item_reference" if "id" in value and "role" not in value else "message"]
    return _KINDS.get(kind, _OTHER) if isinstance(kind, str) else _OTHER


Item = Annotated[
    Annotated[MessageItem, Tag(_KINDS["message"])]
    | Annotated[FunctionCallItem, Tag(_KINDS["function_call"])]
    | Annotated[FunctionCallOutputItem, Tag(_KINDS["function_call_output"])]
    | Annotated[ReasoningItem, Tag(_KINDS["reasoning"])]
    | Annotated[ItemReference, Tag(_KINDS["item_reference"])]
    | Annotated[OtherItem, Tag(_OTHER)],
    one_of(_item_kind, "an object"),
]

Input = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Item], FIRST_FAULT, Tag(_ITEMS)],
    string_or(_ITEMS, "a string or an array of items"),
]


class ResponsesTool(Body):
    """A tool; only functions are supported."""

    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Body):
    """How the text shall be: `format` is one of OpenAI's three."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Body):
    """How much the model shall think; summaries are not made, the reasoning itself is given."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: str | None = None


class ResponseInputFields(ModelBody):
    """What makes up the prompt of a response."""

    input: Input | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Annotated[list[ResponsesTool], FIRST_FAULT] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ResponsesRequest(ResponseInputFields, SamplingFields):
    """The body of a response."""

    max_output_tokens: Annotated[Integer, Field(ge=1)] | None = None
    max_tool_calls: Integer | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    thinking_token_budget: Annotated[Integer, Field(ge=0)] | None = None
    include: Annotated[list[Include], FIRST_FAULT] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] | None = None
    store: bool | None = None
    background: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class InputTokensRequest(ResponseInputFields):
    """The body of a count of input tokens."""
