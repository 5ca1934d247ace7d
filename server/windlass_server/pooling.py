"""One API call for embeddings or scores: submitted, awaited, counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING

from windlass.errors import (
    EngineDeadError,
    EngineError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)
from windlass.pooling import PoolingOutput
from windlass_server.engine import Engine, RequestStream
from windlass_server.errors import engine_away
from windlass_server.metrics import ServerMetrics
from windlass_server.operations.record import current_record
from windlass_server.protocol.embeddings import PoolingUsage

if TYPE_CHECKING:
    from windlass_server.access.admission import Admission
    from windlass_server.access.deadline import Deadline
    from windlass_server.access.size import Size
    from windlass_server.state import ServerState

Submission = Coroutine[None, None, RequestStream[PoolingOutput]]


async def pooled(
    state: ServerState,
    engine: Engine,
    admission: Admission,
    submit: Callable[[], Submission],
    size: Size,
    names: Mapping[str, str] | None = None,
) -> PoolingOutput:
    """Wait for the call's turn, submit, and wait for the answer, while the client stays.

    `size` is of its inputs; `names` maps the engine's parameters to the request's.

    Raises:
        RequestError, ApiError: it was refused, or took too long.
        RequestFailedError, EngineDeadError: the engine failed on it.
    """
    started = time.monotonic()
    model = state.models.of(engine)
    stream = None
    try:
        await admission.enter(state.access.queue_of(model, engine), size, client_watched=True)
        stream = await _submitted(admission, submit)
        output = await _answer(model.metrics, stream, admission.deadline)
        admission.meter.prompt_tokens = output.prompt_tokens
    except QueueFullError:
        model.metrics.queue_rejections.inc()
        raise
    except RequestError as exc:
        if exc.param is not None and names is not None:
            exc.param = names.get(exc.param, exc.param)
        raise
    except EngineError as exc:
        ended = state.ended_by_server(model, engine)
        if ended is None and stream is None and isinstance(exc, EngineDeadError):
            ended = engine_away(exc)
        if ended is None:
            raise
        raise ended from exc
    finally:
        admission.leave()
    model.metrics.observe_pooling(output, time.monotonic() - started)
    current_record().pooled_tokens = output.prompt_tokens
    return output


async def _submitted(
    admission: Admission, submit: Callable[[], Submission]
) -> RequestStream[PoolingOutput]:
    try:
        return await submit()
    except BaseException:
        admission.refuse()
        raise


async def _answer(
    metrics: ServerMetrics,
    stream: RequestStream[PoolingOutput],
    deadline: Deadline,
) -> PoolingOutput:
    """Wait for the one output; whoever stops waiting aborts the request."""
    finished = metrics.finished
    try:
        # What is in the engine has no first output to wait for: only the whole time counts.
        deadline.watch(lambda _error: stream.abort(), lambda: True)
        async for output in stream:
            return output
        ended = RequestFailedError("The engine ended the request before it finished.")
        raise deadline.error or ended
    except EngineError:
        finished["error"].inc()
        raise
    except BaseException:
        finished["abort"].inc()
        raise
    finally:
        await stream.aclose()


def usage_of(output: PoolingOutput) -> PoolingUsage:
    """Return the tokens of the call."""
    return PoolingUsage(output.prompt_tokens, output.prompt_tokens)
