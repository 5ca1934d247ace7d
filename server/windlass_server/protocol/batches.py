"""`/v1/batches`: what comes in and goes out. https://platform.openai.com/docs/api-reference/batch"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType
from pydantic import Field, StringConstraints

from windlass_server.protocol.fields import Body, Integer

MIN_TTL, MAX_TTL = 3600, 2_592_000
"""Seconds that a request may have a file kept, as at OpenAI."""

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v1/score",
    "/score",
]
"""The routes that a batch can call."""


class ExpiresAfter(Body):
    """How long the output of a batch is kept, in seconds."""

    anchor: Literal["created_at"]
    seconds: Annotated[Integer, Field(ge=MIN_TTL, le=MAX_TTL)]


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class BatchRequest(Body):
    """The body of a new batch."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(Struct):
    """Why a batch could not begin; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct):
    """All that is wrong with the input of a batch, or the first of it."""

    data: list[BatchError]
    object: str = "list"


class RequestCounts(Struct):
    """Lines of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchInputDetails(Struct):
    """Where input tokens came from."""

    cached_tokens: int = 0


class BatchOutputDetails(Struct):
    """What output tokens were used for."""

    reasoning_tokens: int = 0


class BatchUsage(Struct):
    """The tokens of all lines that were answered."""

    input_tokens: int
    input_tokens_details: BatchInputDetails
    output_tokens: int
    output_tokens_details: BatchOutputDetails
    total_tokens: int


class Batch(Struct):
    """A batch; what has not happened is left out. Times are in seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    object: str = "batch"
    errors: BatchErrors | UnsetType = UNSET
    model: str | UnsetType = UNSET
    output_file_id: str | UnsetType = UNSET
    error_file_id: str | UnsetType = UNSET
    in_progress_at: int | UnsetType = UNSET
    finalizing_at: int | UnsetType = UNSET
    completed_at: int | UnsetType = UNSET
    failed_at: int | UnsetType = UNSET
    expired_at: int | UnsetType = UNSET
    cancelling_at: int | UnsetType = UNSET
    cancelled_at: int | UnsetType = UNSET


class BatchList(Struct):
    """A page of batches."""

    data: list[Batch]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"
