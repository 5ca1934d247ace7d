"""`/v1/completions`: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from annotated_types import Len
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass.request import MAX_LOGPROBS
from windlass_server.body import UNION_TAG
from windlass_server.protocol.chat import PromptLogprobs
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, TEXTS, Body, Integer, one_of
from windlass_server.protocol.sampling import SamplingFields
from windlass_server.protocol.usage import Usage

MAX_PROMPTS = 1024
_TOKENS, _TOKEN_LISTS = UNION_TAG + "tokens", UNION_TAG + "token_lists"
_LIST_TAGS: dict[type, str] = {str: TEXTS, int: _TOKENS, list: _TOKEN_LISTS}


def _prompt_kind(value: object) -> str | None:
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list):
        return _LIST_TAGS.get(type(value[0])) if value else TEXTS
    return None


_Tokens = Annotated[list[int], FIRST_FAULT, Len(1)]
_Prompts = Len(1, MAX_PROMPTS)
Prompt = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], FIRST_FAULT, _Prompts, Tag(TEXTS)]
    | Annotated[list[int], FIRST_FAULT, Tag(_TOKENS)]
    | Annotated[list[_Tokens], FIRST_FAULT, _Prompts, Tag(_TOKEN_LISTS)],
    one_of(_prompt_kind, "a string, an array of strings, token ids or an array of token ids"),
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
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [item for item in prompt if not isinstance(item, int)]


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
