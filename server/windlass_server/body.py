"""From the bytes of a request to a validated model, or one clean sentence about the fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from windlass_server.errors import ApiError, invalid_request

MAX_DEPTH = 128
MAX_ERRORS = 10
UNION_TAG = "~"
"""Starts the tags of discriminated unions, so that they can be told from field names."""

Model = TypeVar("Model", bound=BaseModel)

_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}

_BOUNDS: dict[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be above {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be below {}"),
    "too_short": ("min_length", "must have at least {} entries"),
    "too_long": ("max_length", "must have at most {} entries"),
    "string_too_short": ("min_length", "must have at least {} characters"),
    "string_too_long": ("max_length", "must have at most {} characters"),
    "literal_error": ("expected", "must be one of {}"),
}


async def parse_body(request: Request, model: type[Model]) -> Model:
    """Read, decode and validate the body of `request`.

    Raises:
        ApiError: 400, 413, 415 with the field at fault in `param`.
    """
    _check_headers(request.headers)
    data = decode_json(await request.body())
    if not isinstance(data, dict):
        raise invalid_request("The request body must be a JSON object.")
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise validation_error(exc) from None


def _check_headers(headers: Mapping[str, str]) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Send the request body as 'Content-Type: application/json'.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "Compressed request bodies are not supported.")


def decode_json(data: bytes) -> object:
    """Decode strict JSON: UTF-8, no NaN or Infinity, at most `MAX_DEPTH` levels."""
    if not data.strip():
        raise invalid_request("The request body is empty; send a JSON object.")
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        raise invalid_request("The request body is not valid UTF-8.") from None
    except msgspec.DecodeError as exc:
        raise invalid_request(f"The request body is not valid JSON: {exc}.") from None
    opening = data.count(b"[") + data.count(b"{")
    if opening > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _too_deep() -> ApiError:
    return invalid_request(f"The request body is nested deeper than {MAX_DEPTH} levels.")


def _depth_exceeds(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [v for v in item.values() if isinstance(v, dict | list)]
            elif isinstance(item, list):
                inner += [v for v in item if isinstance(v, dict | list)]
        if not inner:
            return False
        level = inner
    return True


def validation_error(exc: ValidationError) -> ApiError:
    """Turn pydantic's findings into a 400: the first one gives `param` and `code`."""
    details = exc.errors(include_url=False)[:MAX_ERRORS]
    sentences = [_sentence(detail) for detail in details]
    first = details[0]
    return invalid_request(" ".join(sentences), _param(first["loc"]) or None, _code(first["type"]))


def _param(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith(UNION_TAG):
            text += ("." if text else "") + part[:64]
    return text


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_required_parameter"
    if kind in _TYPES or kind == "invalid_type":
        return "invalid_type"
    return "invalid_value"


def _sentence(detail: ErrorDetails) -> str:
    kind, param, context = detail["type"], _param(detail["loc"]), detail.get("ctx", {})
    if kind == "missing":
        return f"Missing required parameter: '{param}'."
    if kind in _TYPES:
        return f"'{param}' must be {_TYPES[kind]}, not {json_type(detail['input'])}."
    if kind in _BOUNDS:
        key, text = _BOUNDS[kind]
        return f"'{param}' {text.format(context.get(key))}."
    if kind == "finite_number":
        return f"'{param}' must be a finite number."
    if kind in ("invalid_type", "invalid_value"):
        return f"'{param}' {detail['msg']}."
    return f"'{param}' is not valid."


_JSON_TYPES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda v: v is None, "null"),
    (lambda v: isinstance(v, bool), "a boolean"),
    (lambda v: isinstance(v, int), "an integer"),
    (lambda v: isinstance(v, float), "a number"),
    (lambda v: isinstance(v, str), "a string"),
    (lambda v: isinstance(v, list), "an array"),
)


def json_type(value: object) -> str:
    """Name the JSON type of a decoded value."""
    return next((name for test, name in _JSON_TYPES if test(value)), "an object")
