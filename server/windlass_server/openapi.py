"""What `/openapi.json` says of this API, from the types of its requests and answers.

OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from windlass import __version__
from windlass_server.errors import ErrorResponse
from windlass_server.protocol.batches import (
    MAX_TTL,
    MIN_TTL,
    Batch,
    BatchList,
    BatchRequest,
)
from windlass_server.protocol.chat import ChatCompletion, ChatCompletionRequest
from windlass_server.protocol.completions import Completion, CompletionRequest
from windlass_server.protocol.embeddings import EmbeddingList, EmbeddingRequest
from windlass_server.protocol.files import FileDeleted, FileList, FileObject
from windlass_server.protocol.loading import LoadRequest
from windlass_server.protocol.messages import CountTokensRequest, MessagesRequest
from windlass_server.protocol.models import ModelList
from windlass_server.protocol.responses import InputTokensRequest, ResponsesRequest
from windlass_server.protocol.scores import (
    RerankRequest,
    RerankResponse,
    ScoreRequest,
    ScoreResponse,
)
from windlass_server.protocol.tokenization import DetokenizeRequest, TokenizeRequest

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/responses/input_tokens": InputTokensRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/rerank": RerankRequest,
    "/v1/rerank": RerankRequest,
    "/v2/rerank": RerankRequest,
    "/score": ScoreRequest,
    "/v1/score": ScoreRequest,
    "/v1/batches": BatchRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/models/load": LoadRequest,
    "/models/unload": LoadRequest,
}
"""Route -> what its POST takes, as JSON."""
FORMS: Mapping[str, dict[str, Any]] = {
    "/v1/files": {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "purpose": {"type": "string", "const": "batch"},
            "expires_after[anchor]": {"type": "string", "const": "created_at"},
            "expires_after[seconds]": {"type": "integer", "minimum": MIN_TTL, "maximum": MAX_TTL},
        },
    }
}
"""Route -> the fields of the form that its POST takes."""
ANSWERS: Mapping[tuple[str, str], type[msgspec.Struct]] = {
    ("/v1/chat/completions", "post"): ChatCompletion,
    ("/v1/completions", "post"): Completion,
    ("/v1/embeddings", "post"): EmbeddingList,
    ("/rerank", "post"): RerankResponse,
    ("/v1/rerank", "post"): RerankResponse,
    ("/v2/rerank", "post"): RerankResponse,
    ("/score", "post"): ScoreResponse,
    ("/v1/score", "post"): ScoreResponse,
    ("/v1/models", "get"): ModelList,
    ("/v1/files", "post"): FileObject,
    ("/v1/files", "get"): FileList,
    ("/v1/files/{file_id}", "get"): FileObject,
    ("/v1/files/{file_id}", "delete"): FileDeleted,
    ("/v1/batches", "post"): Batch,
    ("/v1/batches", "get"): BatchList,
    ("/v1/batches/{batch_id}", "get"): Batch,
    ("/v1/batches/{batch_id}/cancel", "post"): Batch,
}
"""Route and method -> its answer, where clients rely on its every key."""
_COMPONENTS = "#/components/schemas/{}"
_STREAMED = ("/v1/chat/completions", "/v1/completions")


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document of `app`'s routes."""
    document = get_openapi(title="Windlass", version=__version__, routes=app.routes)
    requests = [(model, "validation") for model in BODIES.values()]
    _, defined = models_json_schema(requests, ref_template=_COMPONENTS.format("{model}"))  # type: ignore[arg-type]
    answers = [*ANSWERS.values(), ErrorResponse]
    _, structs = msgspec.json.schema_components(answers, ref_template=_COMPONENTS.format("{name}"))
    components = document.setdefault("components", {})
    components["schemas"] = {**defined.get("$defs", {}), **structs}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _describe_operation(operation, path, method)
    return document


def _describe_operation(operation: dict[str, Any], path: str, method: str) -> None:
    if method == "post" and path in BODIES:
        schema = _reference(BODIES[path])
        operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
    if method == "post" and path in FORMS:
        content = {"multipart/form-data": {"schema": FORMS[path]}}
        operation["requestBody"] = {"required": True, "content": content}
    done: dict[str, Any] = {"description": "Done"}
    if (path, method) in ANSWERS:
        done["content"] = {"application/json": _reference(ANSWERS[path, method])}
        if path in _STREAMED:
            done["content"]["text/event-stream"] = {}
    error = {"application/json": _reference(ErrorResponse)}
    operation["responses"] = {
        "200": done,
        "default": {"description": "An error", "content": error},
    }


def _reference(kind: type[Any]) -> dict[str, Any]:
    return {"schema": {"$ref": _COMPONENTS.format(kind.__name__)}}
