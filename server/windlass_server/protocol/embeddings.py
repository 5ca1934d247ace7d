"""`/v1/embeddings`: what comes in and what goes out.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import Field, Tag

from windlass_server.protocol.fields import FIRST_FAULT, TEXT, TEXTS, Integer, ModelBody
from windlass_server.protocol.prompts import (
    TEXTS_OR_TOKENS,
    TOKEN_LISTS,
    TOKENS,
    TokenIds,
    one_by_one,
)

Input = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], FIRST_FAULT, Field(min_length=1), Tag(TEXTS)]
    | Annotated[list[int], FIRST_FAULT, Tag(TOKENS)]
    | Annotated[list[TokenIds], FIRST_FAULT, Tag(TOKEN_LISTS)],
    TEXTS_OR_TOKENS,
]


class EmbeddingRequest(ModelBody):
    """Texts to embed. Beyond OpenAI's fields: `normalize`, `truncate_prompt_tokens`, `priority`
    (vLLM's) and `prompt_name`, one of the model's own prompts.
    """

    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Integer, Field(ge=1)] | None = None
    user: str | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: Integer | None = None
    prompt_name: str | None = None
    priority: Integer | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs one by one, whatever form they came in."""
        return one_by_one(self.input)


class Embedding(msgspec.Struct):
    """One input as numbers, or as base64 of float32, little-endian."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class PoolingUsage(msgspec.Struct):
    """Tokens of one call."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """An embedding per input, in their order."""

    data: list[Embedding]
    model: str
    usage: PoolingUsage
    object: str = "list"
