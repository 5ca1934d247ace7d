"""One API call for embeddings or scores: submitted, awaited, counted."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING

from windlass.errors import (
    EngineDeadError,
    EngineError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)
from windlass.pooling import PoolingOutput
from windlass_server.engine import RequestStream
from windlass_server.errors import engine_away, shutting_down
from windlass_server.metrics import ServerMetrics
from windlass_server.operations.record import current_record
from windlass_server.protocol.embeddings import PoolingUsage

if TYPE_CHECKING:
    from windlass_server.state import ServerState

Submission = Coroutine[None, None, RequestStream[PoolingOutput]]


async def pooled(
    state: ServerState,
    metrics: ServerMetrics,
    submission: Submission,
    names: Mapping[str, str] | None = None,
) -> PoolingOutput:
    """Submit and wait for the answer; `names` maps the engine's parameters to the request's.

    Raises:
        RequestError, ApiError: the engine refused, or cannot serve now.
        RequestFailedError, EngineDeadError: the engine failed on it.
    """
    started = time.monotonic()
    try:
        stream = await _submitted(metrics, submission)
        output = await _answer(state, metrics, stream)
    except RequestError as exc:
        if exc.param is not None and names is not None:
            exc.param = names.get(exc.param, exc.param)
        raise
    metrics.observe_pooling(output, time.monotonic() - started)
    current_record().pooled_tokens = output.prompt_tokens
    return output


async def _submitted(
    metrics: ServerMetrics, submission: Submission
) -> RequestStream[PoolingOutput]:
    try:
        return await submission
    except QueueFullError:
        metrics.queue_rejections.inc()
        raise
    except EngineDeadError as exc:
        raise engine_away(exc) from exc


async def _answer(
    state: ServerState, metrics: ServerMetrics, stream: RequestStream[PoolingOutput]
) -> PoolingOutput:
    """Wait for the one output; whoever stops waiting aborts the request."""
    finished = metrics.finished
    try:
        async for output in stream:
            return output
        raise RequestFailedError("The engine ended the request before it finished.")
    except EngineError:
        finished["error"].inc()
        if state.stopping.is_set():
            raise shutting_down() from None
        raise
    except BaseException:
        finished["abort"].inc()
        raise
    finally:
        await stream.aclose()


def usage_of(output: PoolingOutput) -> PoolingUsage:
    """Return the tokens of the call."""
    return PoolingUsage(output.prompt_tokens, output.prompt_tokens)
