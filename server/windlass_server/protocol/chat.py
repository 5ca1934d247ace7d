"""`/v1/chat/completions`: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass_server.body import UNION_TAG
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, Body, Integer, string_or
from windlass_server.protocol.sampling import SamplingFields
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


class Message(Body):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatCompletionRequest(SamplingFields):
    """The body of a chat completion."""

    messages: Annotated[list[Message], FIRST_FAULT, Field(min_length=1)]
    max_completion_tokens: Integer | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=_MAX_CHOICES)] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None


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


class ResponseMessage(msgspec.Struct):
    """The answer."""

    content: str | None
    role: str = "assistant"
    refusal: str | None = None


class Choice(msgspec.Struct):
    """One of the `n` answers."""

    index: int
    message: ResponseMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct):
    """The whole answer."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: str = "chat.completion"
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Delta(msgspec.Struct):
    """What is new in an answer."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(msgspec.Struct):
    """One event of a stream."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"
