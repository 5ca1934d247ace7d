"""`/v1/chat/completions`: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass_server.body import UNION_TAG
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, Body, Integer, string_or
from windlass_server.protocol.sampling import SamplingFields
from windlass_server.protocol.tools import ChatTool
from windlass_server.protocol.usage import Usage

_PARTS = UNION_TAG + "parts"
_MAX_CHOICES = 20


class ContentPart(Body):
    """One part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[ContentPart], FIRST_FAULT, Tag(_PARTS)],
    string_or(_PARTS, "a string or an array of content parts"),
]


class CalledFunction(Body):
    """What an earlier turn called; `arguments` is JSON text."""

    name: str
    arguments: str


class MessageToolCall(Body):
    """A tool call of an earlier turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One turn of the conversation; `reasoning` and `reasoning_content` are the same thing."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[MessageToolCall], FIRST_FAULT] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None


class ChatCompletionRequest(SamplingFields):
    """The body of a chat completion."""

    messages: Annotated[list[Message], FIRST_FAULT, Field(min_length=1)]
    max_completion_tokens: Integer | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=_MAX_CHOICES)] | None = None
    tools: Annotated[list[ChatTool], FIRST_FAULT] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: Annotated[Integer, Field(ge=0)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None


class TopLogprob(msgspec.Struct):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """The chosen token and the most probable ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct):
    """Log-probabilities of a choice; both keys are always there."""

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None = None


PromptLogprobs: TypeAlias = list[dict[int, Any] | None]


class FunctionCall(msgspec.Struct):
    """The function that is called, or the part of it that is new."""

    arguments: str
    name: str | UnsetType = UNSET


class ResponseToolCall(msgspec.Struct):
    """A call of a whole answer."""

    id: str
    function: FunctionCall
    type: str = "function"


class ResponseMessage(msgspec.Struct):
    """The answer; its reasoning stands there under both names that clients know."""

    content: str | None
    role: str = "assistant"
    refusal: str | None = None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ResponseToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct):
    """One of the `n` answers."""

    index: int
    message: ResponseMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct):
    """The whole answer."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: str = "chat.completion"
    service_tier: str | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct):
    """What is new in a call: id, type and name come once, the arguments in pieces."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET


class Delta(msgspec.Struct):
    """What is new in an answer."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletionChunk(msgspec.Struct):
    """One event of a stream."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"
    service_tier: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
