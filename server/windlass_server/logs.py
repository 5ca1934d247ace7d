"""What the server logs, and the line about throughput."""

from __future__ import annotations

import asyncio
import logging
import time

from windlass import log_lines
from windlass.engine.outputs import EngineStats
from windlass.log_lines import LogFormat
from windlass_server.models.served_model import ServedModel
from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

STATS_INTERVAL = 10.0


def configure_logging(log_format: LogFormat) -> None:
    """Send all log lines to standard error in one format; uvicorn's from warnings on."""
    log_lines.configure_logging(
        log_format, logging.WARNING, "%(asctime)s %(levelname)s %(message)s"
    )
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
