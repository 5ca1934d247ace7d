"""`/v1/completions`: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from annotated_types import Len
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass.request import MAX_LOGPROBS
from windlass_server.protocol.chat import PromptLogprobs
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, TEXTS, Body, Integer
from windlass_server.protocol.prompts import (
    TEXTS_OR_TOKENS,
    TOKEN_LISTS,
    TOKENS,
    TokenIds,
    one_by_one,
)
from windlass_server.protocol.sampling import SamplingFields
from windlass_server.protocol.usage import Usage

MAX_PROMPTS = 1024
_Prompts = Len(1, MAX_PROMPTS)
Prompt = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], FIRST_FAULT, _Prompts, Tag(TEXTS)]
    | Annotated[list[int], FIRST_FAULT, Tag(TOKENS)]
    | Annotated[list[TokenIds], FIRST_FAULT, _Prompts, Tag(TOKEN_LISTS)],
    TEXTS_OR_TOKENS,
]


class CompletionRequest(SamplingFields, Body):
    """The body of a completion; `max_tokens` 0 is allowed together with `echo`."""

    prompt: Prompt
    echo: bool | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Integer | None = None
    add_special_tokens: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, whatever form they came in."""
        return one_by_one(self.prompt)


class CompletionLogprobs(msgspec.Struct):
    """Log-probabilities, one entry per token of the text; `text_offset` in characters."""

    text_offset: list[int] = []
    token_logprobs: list[float | None] = []
    tokens: list[str] = []
    top_logprobs: list[dict[str, float] | None] = []


class CompletionChoice(msgspec.Struct):
    """One answer to one prompt, or its part of a chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(msgspec.Struct):
    """The whole answer, or one event of a stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    object: str = "text_completion"
