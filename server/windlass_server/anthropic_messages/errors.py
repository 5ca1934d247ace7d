"""Anthropic's error object, which every error on its routes has, from 401 to inside a stream."""

from __future__ import annotations

import msgspec

from windlass_server.errors import ApiError

_PATH = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicError(msgspec.Struct):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorBody(msgspec.Struct):
    """The body of every answer that is not 2xx, and the data of a stream's error event."""

    error: AnthropicError
    request_id: str
    type: str = "error"


def speaks_anthropic(path: str) -> bool:
    """Whether errors on this path have Anthropic's shape."""
    return path == _PATH or path.startswith(_PATH + "/")


def anthropic_error(error: ApiError, request_id: str) -> bytes:
    """Return `error` as Anthropic writes it."""
    status = error.status
    other = "api_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, other)
    return msgspec.json.encode(
        AnthropicErrorBody(AnthropicError(kind, error.error.message), request_id)
    )
