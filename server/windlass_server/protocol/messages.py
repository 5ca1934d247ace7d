"""Anthropic's `/v1/messages`: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass_server.body import UNION_TAG
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, Body, Integer, ModelBody, string_or
from windlass_server.protocol.tools import ToolName

_BLOCKS = UNION_TAG + "blocks"


class Block(Body):
    """A content block: which fields it has depends on `type`."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Content | None = None
    is_error: bool | None = None
    cache_control: dict[str, Any] | None = None
    citations: Any = None
    caller: Any = None


Content = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Block], FIRST_FAULT, Tag(_BLOCKS)],
    string_or(_BLOCKS, "a string or an array of content blocks"),
]


class MessageParam(Body):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class ToolParam(Body):
    """A tool; those that Anthropic runs itself have a dated `type` and are refused."""

    name: ToolName
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None


class ToolChoiceParam(Body):
    """Which tools may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingParam(Body):
    """Whether the model thinks, and how many tokens it may use for it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Integer, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Body):
    """How much effort the answer is worth, and its format."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class MessageMetadata(Body):
    """Whom the request is for."""

    user_id: str | None = None


class CountTokensRequest(ModelBody):
    """What makes up the prompt of a message: the body of a count."""

    messages: Annotated[list[MessageParam], FIRST_FAULT, Field(min_length=1)]
    system: Content | None = None
    tools: Annotated[list[ToolParam], FIRST_FAULT] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest):
    """The body of a message."""

    max_tokens: Annotated[Integer, Field(ge=1)]
    metadata: MessageMetadata | None = None
    stop_sequences: Annotated[list[str], FIRST_FAULT] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Integer | None = None
    top_p: float | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    priority: Integer | None = None


class TextBlock(msgspec.Struct):
    """Text for the user."""

    text: str
    type: str = "text"


class ThinkingBlock(msgspec.Struct):
    """What the model thought; nothing is signed here."""

    thinking: str
    signature: str = ""
    type: str = "thinking"


class ToolUseBlock(msgspec.Struct):
    """A call that the client shall make."""

    id: str
    name: str
    input: msgspec.Raw | dict[str, Any]
    type: str = "tool_use"


ResponseBlock = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingTokens(msgspec.Struct):
    """What output tokens were used for."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct):
    """The tokens of a message: `input_tokens` are those not read from the cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0
    output_tokens_details: ThinkingTokens | UnsetType = UNSET
    service_tier: str | UnsetType = "standard"


class Message(msgspec.Struct):
    """The whole answer."""

    id: str
    model: str
    content: list[ResponseBlock]
    usage: MessageUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: str = "assistant"
    type: str = "message"


class TokenCount(msgspec.Struct):
    """How many tokens a prompt has."""

    input_tokens: int


class MessageStart(msgspec.Struct):
    """A stream begins."""

    message: Message
    type: str = "message_start"


class Ping(msgspec.Struct):
    """Nothing has happened."""

    type: str = "ping"


class BlockStart(msgspec.Struct):
    """A block begins, empty."""

    index: int
    content_block: ResponseBlock
    type: str = "content_block_start"


class TextDelta(msgspec.Struct):
    """New text."""

    text: str
    type: str = "text_delta"


class ThinkingDelta(msgspec.Struct):
    """New thinking."""

    thinking: str
    type: str = "thinking_delta"


class SignatureDelta(msgspec.Struct):
    """The signature of a thinking block that is complete."""

    signature: str = ""
    type: str = "signature_delta"


class InputDelta(msgspec.Struct):
    """New text of a call's input."""

    partial_json: str
    type: str = "input_json_delta"


class BlockDelta(msgspec.Struct):
    """What is new in a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta
    type: str = "content_block_delta"


class BlockStop(msgspec.Struct):
    """A block is complete."""

    index: int
    type: str = "content_block_stop"


class StopDelta(msgspec.Struct):
    """Why the message ended."""

    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct):
    """The message is complete; the tokens are those of all of it."""

    delta: StopDelta
    usage: MessageUsage
    type: str = "message_delta"


class MessageStop(msgspec.Struct):
    """The stream ends."""

    type: str = "message_stop"


StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
