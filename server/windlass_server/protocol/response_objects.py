"""`/v1/responses`: what goes out, whole."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from windlass_server.protocol.chat import TokenLogprob


class OutputText(msgspec.Struct):
    """Text of a message."""

    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []
    type: str = "output_text"


class ReasoningPart(msgspec.Struct):
    """Text of a reasoning."""

    text: str
    type: str = "reasoning_text"


class OutputMessage(msgspec.Struct):
    """What the model says to the user."""

    id: str
    status: str
    content: list[OutputText]
    role: str = "assistant"
    type: str = "message"


class OutputReasoning(msgspec.Struct):
    """What the model thought; `encrypted_content` holds it again for a server that keeps none."""

    id: str
    status: str
    content: list[ReasoningPart]
    summary: list[Any] = []
    encrypted_content: str | UnsetType = UNSET
    type: str = "reasoning"


class OutputFunctionCall(msgspec.Struct):
    """A call that the client shall make."""

    id: str
    status: str
    call_id: str
    name: str
    arguments: str = ""
    type: str = "function_call"


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall


class InputTokensDetails(msgspec.Struct):
    """Where input tokens came from; writing to the cache is not counted here, it costs nothing."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    """What output tokens were used for."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    """Why a response ended early."""

    reason: str


class ReasoningEcho(msgspec.Struct):
    """The reasoning options of the request."""

    effort: str | None = None
    summary: str | None = None


class Response(msgspec.Struct, kw_only=True):
    """A response: null where OpenAI's schema wants null, absent where it wants absence."""

    id: str
    created_at: int
    model: str
    object: str = "response"
    status: str = "in_progress"
    background: bool = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    output: list[OutputItem] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: ReasoningEcho | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float | None = None
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    completed_at: int | UnsetType = UNSET
    prompt_cache_key: str | UnsetType = UNSET
    safety_identifier: str | UnsetType = UNSET
    usage: ResponseUsage | UnsetType = UNSET
    user: str | UnsetType = UNSET


class DeletedResponse(msgspec.Struct):
    """The answer to a deletion."""

    id: str
    object: str = "response"
    deleted: bool = True


class ItemList(msgspec.Struct):
    """A page of items."""

    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"


class InputTokens(msgspec.Struct):
    """How many tokens a prompt has."""

    input_tokens: int
    object: str = "response.input_tokens"
