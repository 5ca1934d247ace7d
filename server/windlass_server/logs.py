"""Log lines as text or JSON, on standard error, and the line about throughput."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Literal

import msgspec

from windlass.engine.outputs import EngineStats
from windlass_server.models.served_model import ServedModel
from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

STATS_INTERVAL = 10.0
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


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Send all log lines to standard error in one format; uvicorn's from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("windlass", "windlass_server"):
        logging.getLogger(name).setLevel(logging.INFO)


async def log_stats(state: ServerState, interval: float = STATS_INTERVAL) -> None:
    """Log throughput and load every `interval` seconds while there is something to tell."""
    await asyncio.gather(*(_log_stats_of(model, state, interval) for model in state.models.models))


async def _log_stats_of(model: ServedModel, state: ServerState, interval: float) -> None:
    prefix = f"{model.settings.name}: " if len(state.models.models) > 1 else ""
    before, then = model.metrics.tokens(), time.monotonic()
    busy = False
    while True:
        await asyncio.sleep(interval)
        tokens, now = model.metrics.tokens(), time.monotonic()
        was_busy, busy = busy, tokens != before
        if (busy or was_busy) and model.engine is not None:
            rates = [(new - old) / (now - then) for new, old in zip(tokens, before, strict=True)]
            in_front = model.metrics.calls_in_front()
            logger.info("%s%s", prefix, _stats_line(model.engine.stats(), in_front, *rates))
        before, then = tokens, now


def _stats_line(
    stats: EngineStats, in_front: int, prompt_rate: float, generation_rate: float
) -> str:
    hit_rate = stats.prefix_cache_hits / max(1, stats.prefix_cache_queries)
    return (
        f"Avg prompt throughput: {prompt_rate:.1f} tokens/s, "
        f"Avg generation throughput: {generation_rate:.1f} tokens/s, "
        f"Running: {stats.num_running} reqs, Waiting: {stats.num_waiting + in_front} reqs, "
        f"KV cache usage: {stats.kv_cache_usage:.1%}, Prefix cache hit rate: {hit_rate:.1%}"
    )
