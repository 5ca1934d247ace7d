"""The lines of a batch's input: read from a file, and checked one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import get_args

import msgspec

from windlass_server.protocol.batches import Endpoint

ENDPOINTS = get_args(Endpoint)
MAX_CUSTOM_ID = 512
ENVELOPE_BYTES = 4096
"""Bytes that a line may have beyond its body."""
_CHUNK_BYTES = 1024 * 1024


class LineFault(Exception):
    """A line that is no request; `code` and `param` are those of OpenAI's batch errors."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class BatchLine(msgspec.Struct, frozen=True):
    """One request; `body` is its JSON as it was written."""

    custom_id: str
    url: str
    body: bytes


class _Head(msgspec.Struct):
    model: str


def read_lines(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of each line that is not blank.

    Of a line longer than `max_bytes` come its first `max_bytes` + 1 bytes.
    """
    with path.open("rb") as file:
        number = 0
        while data := file.readline(max_bytes + 1):
            number += 1
            if len(data) > max_bytes and not data.endswith(b"\n"):
                while (rest := file.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                    pass
            if data.strip():
                yield number, data.rstrip(b"\r\n")


async def lines_of(path: Path, max_bytes: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield what `read_lines` yields, read in a thread about a mebibyte at a time."""
    source = read_lines(path, max_bytes)
    try:
        while chunk := await asyncio.to_thread(_take, source):
            for line in chunk:
                yield line
    finally:
        source.close()  # type: ignore[attr-defined]


def _take(source: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    taken, size = [], 0
    for number, data in source:
        taken.append((number, data))
        size += len(data)
        if size >= _CHUNK_BYTES:
            break
    return taken


def read_line(data: bytes, max_bytes: int) -> BatchLine:
    """Return the request that a line asks for.

    Raises:
        LineFault: the line is too long, no JSON object, or lacks a field.
    """
    if len(data) > max_bytes:
        raise LineFault("line_too_long", f"The line is longer than {max_bytes} bytes.")
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LineFault("invalid_json_line", "The line is not a valid JSON object.") from None
    custom_id = _string(fields, "custom_id")
    if not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        message = f"'custom_id' must have from 1 to {MAX_CUSTOM_ID} characters."
        raise LineFault("invalid_value", message, "custom_id")
    if _string(fields, "method") != "POST":
        raise LineFault("invalid_method", "'method' must be POST.", "method")
    url = _string(fields, "url")
    if url not in ENDPOINTS:
        message = f"'url' must be one of {', '.join(ENDPOINTS)}."
        raise LineFault("invalid_url", message, "url")
    return BatchLine(custom_id, url, _body(fields))


def custom_id_of(data: bytes) -> str | None:
    """Return the id that a faulty line may still have."""
    try:
        return _string(msgspec.json.decode(data, type=dict[str, msgspec.Raw]), "custom_id")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LineFault):
        return None


def _string(fields: dict[str, msgspec.Raw], name: str) -> str:
    try:
        return msgspec.json.decode(_required(fields, name), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LineFault("invalid_type", f"'{name}' must be a string.", name) from None


def _body(fields: dict[str, msgspec.Raw]) -> bytes:
    body = bytes(_required(fields, "body")).strip()
    if not body.startswith(b"{"):
        raise LineFault("invalid_type", "'body' must be an object.", "body")
    return body


def _required(fields: dict[str, msgspec.Raw], name: str) -> msgspec.Raw:
    if name not in fields:
        message = f"Missing required parameter: '{name}'."
        raise LineFault("missing_required_parameter", message, name)
    return fields[name]


def model_of(line: BatchLine) -> str:
    """Return the model that the request names.

    Raises:
        LineFault: it names none.
    """
    try:
        return msgspec.json.decode(line.body, type=_Head).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = "'body.model' must be there, and be a string."
        raise LineFault("missing_required_parameter", message, "body.model") from None
