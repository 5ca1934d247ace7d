"""The one place where an exception becomes an answer: status, OpenAI error object, headers.

Messages are ours or made from validated facts: never a class name, a path or a large input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from windlass.errors import (
    ContextLengthError,
    EngineDeadError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)

MAX_MESSAGE_CHARACTERS = 1024


class ErrorObject(msgspec.Struct):
    """OpenAI's error: all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct):
    """The body of every answer that is not 2xx."""

    error: ErrorObject


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.error = ErrorObject(message[:MAX_MESSAGE_CHARACTERS], type, param, code)

    def body(self) -> bytes:
        """Return the error object as JSON."""
        return msgspec.json.encode(ErrorResponse(self.error))

    def response(self, body: bytes | None = None) -> Response:
        """Return the HTTP answer, with another `body` where a surface has its own error object."""
        data = self.body() if body is None else body
        return Response(data, self.status, headers=self.headers, media_type="application/json")


def invalid_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 about the request's content."""
    return ApiError(400, message, param=param, code=code)


def missing(param: str) -> ApiError:
    """Return a 400 for a field that must be there."""
    text = f"Missing required parameter: '{param}'."
    return invalid_request(text, param, "missing_required_parameter")


def unsupported(param: str, message: str | None = None) -> ApiError:
    """Return a 400 for a parameter that is known and not supported."""
    text = message or f"'{param}' is not supported by this server."
    return ApiError(400, text, param=param, code="unsupported_parameter")


def wrong_kind(*, pools: bool) -> ApiError:
    """Return a 400 for a call that the model is not made for; `pools`: it embeds or scores."""
    message = (
        "This model does not generate text: it embeds or scores (/v1/embeddings, /v1/rerank)."
        if pools
        else "This model generates text; it does not embed or score."
    )
    return ApiError(400, message, param="model", code="unsupported_endpoint")


def model_not_found(model: str) -> ApiError:
    """Return a 404 for a model that is not served here."""
    shown = model if len(model) <= 200 else model[:200] + "..."
    message = f"The model '{shown}' does not exist. GET /v1/models lists the models served here."
    return ApiError(404, message, param="model", code="model_not_found")


def invalid_api_key(given: bool) -> ApiError:
    """Return a 401."""
    message = (
        "Incorrect API key provided."
        if given
        else "You didn't provide an API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
    )
    return ApiError(
        401,
        message,
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def body_too_large(limit: int) -> ApiError:
    """Return a 413."""
    message = f"The request body is larger than {limit} bytes."
    return ApiError(413, message, code="request_too_large")


def unavailable(message: str, code: str, retry_after: float, *, close: bool = False) -> ApiError:
    """Return a 503 that says when to come again (seconds)."""
    headers = {
        "Retry-After": str(max(1, math.ceil(retry_after))),
        "retry-after-ms": str(max(1, math.ceil(retry_after * 1000))),
    }
    if close:
        headers["Connection"] = "close"
    return ApiError(503, message, type="overloaded_error", code=code, headers=headers)


def shutting_down() -> ApiError:
    """Return the 503 of a server that drains."""
    message = "The server is shutting down; try another one."
    return unavailable(message, "shutting_down", 5.0, close=True)


def engine_away(exc: EngineDeadError) -> ApiError:
    """Return the answer to a request that found no engine: it comes back, or it stays down."""
    if exc.retry_after is None:
        return server_error("The engine is down.", "engine_dead", retry=False)
    message = "The engine is restarting; try again."
    return unavailable(message, "engine_restarting", exc.retry_after)


def server_error(message: str, code: str, *, retry: bool) -> ApiError:
    """Return a 500; `retry` tells OpenAI's clients whether to try again."""
    headers = {"x-should-retry": "true" if retry else "false"}
    return ApiError(500, message, type="server_error", code=code, headers=headers)


def _http_error(exc: HTTPException) -> ApiError:
    headers = exc.headers or {}
    if exc.status_code == 404:
        return ApiError(404, "There is no such URL.", code="unknown_url", headers=headers)
    if exc.status_code == 405:
        allowed = headers.get("Allow", "another method")
        message = f"This URL does not accept the method; allowed: {allowed}."
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    return ApiError(exc.status_code, "The request cannot be served.", headers=headers)


def to_api_error(exc: BaseException) -> ApiError:
    """Translate any exception; what nobody foresaw becomes a 500 with a fixed text."""
    match exc:
        case ApiError():
            return exc
        case QueueFullError():
            return unavailable(
                "The server is overloaded; try again later.", exc.code, exc.retry_after
            )
        case ContextLengthError() | RequestError():
            return invalid_request(exc.message, exc.param, exc.code)
        case RequestFailedError():
            return server_error("The engine failed on this request.", "request_failed", retry=False)
        case EngineDeadError():
            message = "The engine failed while it worked on this request."
            return server_error(message, "engine_failed", retry=True)
        case HTTPException():
            return _http_error(exc)
        case _:
            return server_error("Internal server error.", "internal_error", retry=False)
