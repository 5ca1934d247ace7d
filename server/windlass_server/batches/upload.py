"""A file that is uploaded as a form: written to the disk while it comes in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from windlass_server.batches.files import FileStore
from windlass_server.batches.records import FileRecord
from windlass_server.errors import ApiError, invalid_request, missing
from windlass_server.protocol.batches import MAX_TTL, MIN_TTL

FORM_BYTES = 64 * 1024
"""Bytes that a form may have beyond its file."""
_MAX_FIELD_BYTES = 1024
_MAX_FIELDS = 16
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_FILENAME = 255


class UploadForm:
    """The fields of a form, and the file in it as the bytes that came since `take`."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise ApiError(415, "Send the file as 'Content-Type: multipart/form-data'.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.complete = False
        self._news: list[bytes] = []
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._header = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _malformed() from None

    def feed(self, data: bytes) -> list[bytes]:
        """Read a piece of the body and return the bytes of the file in it.

        Raises:
            ApiError: 400, the form is malformed or holds more than one file.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise _malformed() from None
        news, self._news = self._news, []
        return news

    def _begin_part(self) -> None:
        self._disposition = b""
        self._value.clear()
        self._is_file = False

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header.clear()
        self._header_value.clear()

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")[:64]
        if b"filename" not in options:
            if len(self.fields) >= _MAX_FIELDS:
                raise invalid_request(f"The form has more than {_MAX_FIELDS} fields.")
            return
        if self._name != "file" or self.filename is not None:
            raise invalid_request("The form must hold one file, named 'file'.", "file")
        self._is_file = True
        self.filename = _safe(options[b"filename"].decode("utf-8", "replace"))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._news.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            text = f"'{self._name}' has more than {_MAX_FIELD_BYTES} bytes."
            raise invalid_request(text, self._name, "invalid_value")

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.complete = True


def _safe(filename: str) -> str:
    """Return the last part of a path as a client sent it, short and printable."""
    name = re.split(r"[/\\\\]", filename)[-1]
    return _UNSAFE.sub("_", name)[-_MAX_FILENAME:] or "upload"


def _malformed() -> ApiError:
    return invalid_request("The form is malformed or ends too early.")


async def store_upload(
    files: FileStore, owner: str, form: UploadForm, body: AsyncIterator[bytes]
) -> FileRecord:
    """Read `body` to its end and keep the file in it.

    Raises:
        ApiError: 4xx, a field is wrong, or the file is too large; nothing is kept then.
    """
    part = files.new_path()
    try:
        async with files.admission() as admit:
            with part.open("xb") as target:
                async for data in body:
                    news = form.feed(data)
                    admit(sum(map(len, news)))
                    if news:
                        await asyncio.to_thread(target.writelines, news)
            filename = _checked(form)
            ttl = _time_to_live(form.fields)
            record = files.new_record(owner, filename, "batch", ttl, part)
            await files.add(record, part)
    finally:
        part.unlink(missing_ok=True)
    return record


def _checked(form: UploadForm) -> str:
    if not form.complete:
        raise _malformed()
    if form.filename is None:
        raise missing("file")
    if "purpose" not in form.fields:
        raise missing("purpose")
    if form.fields["purpose"] != "batch":
        raise invalid_request("'purpose' must be batch.", "purpose", "invalid_value")
    return form.filename


def _time_to_live(fields: dict[str, str]) -> float | None:
    """Return how long the file is to be kept, in seconds."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        text = "'expires_after.anchor' must be created_at."
        raise invalid_request(text, "expires_after.anchor", "invalid_value")
    if seconds is None or not (seconds.isdecimal() and len(seconds) <= 9):
        text = "'expires_after.seconds' must be an integer."
        raise invalid_request(text, "expires_after.seconds", "invalid_type")
    if not MIN_TTL <= int(seconds) <= MAX_TTL:
        text = f"'expires_after.seconds' must be from {MIN_TTL} to {MAX_TTL}."
        raise invalid_request(text, "expires_after.seconds", "invalid_value")
    return int(seconds)
