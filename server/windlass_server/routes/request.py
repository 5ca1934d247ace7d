"""The first steps that all generating routes share, and the way to a whole answer."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.access.admission import Admission
from windlass_server.access.caller import runs_as
from windlass_server.batches.service import Batches
from windlass_server.body import parse_body
from windlass_server.disconnect import until_disconnect
from windlass_server.engine import Engine
from windlass_server.errors import ApiError, unsupported, wrong_kind
from windlass_server.operations.record import current_record
from windlass_server.operations.request_log import log_request
from windlass_server.protocol.fields import Body as AnyBody
from windlass_server.protocol.fields import ModelBody
from windlass_server.protocol.parameters import printable, unknown_parameter, unknown_parameters
from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=ModelBody)

WARNING_HEADER = "x-windlass-warning"
LOW_PRIORITY = 1_000_000
"""The least `priority` of a batch's line, where requests have priorities: the smaller go first."""


def server_state(request: Request) -> ServerState:
    """Return the state of the server that got this request."""
    return cast(ServerState, request.app.state.server)


def batches_of(request: Request) -> Batches:
    """Return the files and batches of the server.

    Raises:
        ApiError: 404, it keeps none.
    """
    batches = server_state(request).batches
    if batches is None:
        text = "This server keeps no files and batches: start it with --batch-dir DIR."
        raise ApiError(404, text, code="unsupported_endpoint")
    return batches


def admit(request: Request) -> Admission:
    """Count a call among those of its key, whatever becomes of it.

    Raises:
        ApiError: 429, too many; 400, its time is no time; 503, the server cannot serve now.
    """
    state = server_state(request)
    state.require_serving()
    return Admission(request, state.access, state.stopping)


async def accept(
    request: Request,
    model: type[Body],
    refused: Mapping[str, tuple[Any, ...]],
    *,
    pools: bool = False,
) -> tuple[Body, Engine, Admission]:
    """Validate the body; return it with the engine and the call's admission.

    The admission's `headers` are those of the answer. `pools` says that the call is for a model
    that embeds or scores; others are for one that generates.

    Raises:
        ApiError: 4xx, the body is wrong or a limit was reached; 503, the server cannot serve now.
    """
    state = server_state(request)
    admission = admit(request)
    body = await parse_body(request, model)
    if body.timeout is not None:
        admission.deadline.limit_request(body.timeout)
    served = state.models.find(body.model)
    current_record().model = served.settings.name
    if state.settings.operations.log.requests:
        names = sorted(body.model_fields_set & type(body).model_fields.keys())
        asked = {name: getattr(body, name) for name in names}
        log_request(state.settings.operations.log, request.scope, asked, await request.body())
    admission.headers.update(warnings(body, refused, state))
    if getattr(body, "priority", None) and not served.settings.priority_scheduling:
        raise unsupported("priority", "'priority' needs --scheduling-policy priority.")
    if runs_as(request.scope) is not None:
        body = _line_of_batch(body, has_priorities=served.settings.priority_scheduling)
    engine = await engine_for(request, body.model, admission)
    if (engine.info.pooling is not None) is not pools:
        raise wrong_kind(pools=not pools)
    return body, engine, admission


def _line_of_batch(body: Body, *, has_priorities: bool) -> Body:
    """Return the body of a batch's line: its answer comes whole, and others go before it."""
    if getattr(body, "stream", None):
        raise unsupported("stream", "A batch does not stream: leave 'stream' out.")
    if not has_priorities or not hasattr(body, "priority"):
        return body
    return body.model_copy(update={"priority": max(body.priority or 0, LOW_PRIORITY)})


async def engine_for(
    request: Request, name: str | None, admission: Admission | None = None
) -> Engine:
    """Return the engine of a model (of the default one), which stays until the answer has ended.

    Raises:
        ApiError: 404, no such model; 503, it cannot be loaded now, or the server does not serve;
            429 and 504, waiting for it is over a limit of `admission`.
        ClientDisconnected: nobody waits for it any more.
    """
    state = server_state(request)
    state.require_serving()
    model = state.models.find(name)
    if model.is_serving:
        return await state.models.enter_for(request.scope, model)

    async def loaded() -> Engine:
        entered = state.models.enter_for(request.scope, model)
        return await until_disconnect(entered, request.receive, state.stopping)

    return await (loaded() if admission is None else admission.wait_for_model(loaded))


def warnings(
    body: AnyBody, refused: Mapping[str, tuple[Any, ...]], state: ServerState
) -> dict[str, str]:
    """Return the header that names unknown parameters, if there are any.

    Raises:
        ApiError: 400, a parameter is refused, or is unknown and the server is strict.
    """
    unknown = unknown_parameters(body, refused)
    if not unknown:
        return {}
    if state.settings.strict_params:
        raise unknown_parameter(unknown)
    names = printable(unknown)
    logger.warning("Unknown parameters were ignored: %s", names)
    return {WARNING_HEADER: f"unknown parameters were ignored: {names}"}


async def whole_answer(
    request: Request, work: Coroutine[None, None, msgspec.Struct], headers: Mapping[str, str]
) -> Response:
    """Run `work` while the client stays and return its result as JSON."""
    state = server_state(request)
    answer = await until_disconnect(work, request.receive, state.stopping)
    return json_response(answer, headers)


def json_response(body: msgspec.Struct, headers: Mapping[str, str] | None = None) -> Response:
    """Return a 200 with `body` as JSON."""
    data = msgspec.json.encode(body)
    return Response(data, headers=headers, media_type="application/json")
