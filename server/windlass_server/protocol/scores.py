"""`/rerank` (Jina's and Cohere's shape in one) and `/score` (vLLM's): what comes in and goes out.

https://jina.ai/reranker, https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, Tag

from windlass_server.body import UNION_TAG
from windlass_server.protocol.embeddings import PoolingUsage
from windlass_server.protocol.fields import (
    FIRST_FAULT,
    TEXT,
    Body,
    Integer,
    ModelBody,
    StringOrStrings,
    one_of,
)

_OBJECT = UNION_TAG + "object"
_DOCUMENT_TAGS: dict[type, str] = {str: TEXT, dict: _OBJECT}


class DocumentObject(Body):
    """A document as an object."""

    text: str


_Document = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[DocumentObject, Tag(_OBJECT)],
    one_of(lambda value: _DOCUMENT_TAGS.get(type(value)), "a string or an object with 'text'"),
]


class ScoreFields(ModelBody):
    """What both kinds of request may carry; `instruction` is for models that take one."""

    user: str | None = None
    truncate_prompt_tokens: Integer | None = None
    instruction: str | None = None
    priority: Integer | None = None


class RerankRequest(ScoreFields):
    """A query and the documents to sort by how well they answer it."""

    query: str
    documents: Annotated[list[_Document], FIRST_FAULT, Field(min_length=1)]
    top_n: Annotated[Integer, Field(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[Integer, Field(ge=1)] | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [doc if isinstance(doc, str) else doc.text for doc in self.documents]


class ScoreRequest(ScoreFields):
    """Texts to compare: one with each of several, or pair by pair."""

    text_1: StringOrStrings
    text_2: StringOrStrings


class Document(msgspec.Struct):
    """A document that is given back."""

    text: str


class RerankResult(msgspec.Struct):
    """One document: where it stood, and its score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class ApiVersion(msgspec.Struct):
    """Whose shape was asked for."""

    version: str


class BilledUnits(msgspec.Struct):
    """Cohere's unit: one search."""

    search_units: int = 1


class InputTokens(msgspec.Struct):
    """Tokens that were read."""

    input_tokens: int


class RerankMeta(msgspec.Struct):
    """What Cohere's clients read."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: InputTokens


class RerankResponse(msgspec.Struct):
    """The documents, best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: PoolingUsage
    meta: RerankMeta


class ScoreObject(msgspec.Struct):
    """The score of one pair."""

    index: int
    score: float
    object: str = "score"


class ScoreResponse(msgspec.Struct):
    """A score per pair, in their order."""

    id: str
    created: int
    model: str
    data: list[ScoreObject]
    usage: PoolingUsage
    object: str = "list"
