"""Log lines as text or as JSON, one line a record, the same in every process of a server."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TypeAlias

import msgspec

LogFormat: TypeAlias = Literal["text", "json"]

_CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)
_ESCAPED = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}
_ESCAPED_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS}


class TextFormatter(logging.Formatter):
    """One line per message: what would end the line, or move the cursor, is escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback below it is not touched."""
        return super().formatMessage(record).translate(_ESCAPED)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; a record with `fields` has those in place of a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **(getattr(record, "fields", None) or {"message": record.getMessage()}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode().translate(_ESCAPED_IN_JSON)


def configure_logging(log_format: LogFormat, level: int, text: str) -> None:
    """Send all log lines from `level` on to standard error; `text` is their pattern as text."""
    handler = logging.StreamHandler(sys.stderr)
    json = log_format == "json"
    handler.setFormatter(JsonFormatter() if json else TextFormatter(text, "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def configured_format() -> LogFormat:
    """Return how this process writes its lines, for a process that it starts."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(one.formatter, JsonFormatter) for one in handlers) else "text"
