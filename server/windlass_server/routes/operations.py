"""Health, readiness, metrics and version: what operators and probes ask for."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from windlass import __version__
from windlass_server.models.metrics import JoinedMetrics
from windlass_server.processes.peers import is_from_peer
from windlass_server.routes.request import json_response, server_state

router = APIRouter()


class Status(msgspec.Struct):
    """A good answer to a probe."""

    status: str = "ok"


class Version(msgspec.Struct):
    """Which Windlass this is."""

    version: str


@router.get("/health")
@router.get("/ping")
async def health(request: Request) -> Response:
    """Answer 200 unless the engine is dead or makes no progress on pending work."""
    server_state(request).require_alive()
    return json_response(Status())


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Answer 200 when new requests are accepted."""
    server_state(request).require_ready()
    return json_response(Status())


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answer with all metrics in Prometheus' text format."""
    state = server_state(request)
    if state.peer_metrics is not None:
        counted = await state.peer_metrics.collector(request.scope)
        renamed = not is_from_peer(request.scope)
        data = state.exposition.text(counted, process=False, renamed=renamed)
    else:
        joined = JoinedMetrics(model.metrics.registry for model in state.models.models)
        data = state.exposition.text(joined)
    return Response(data, media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/version")
async def version() -> Response:
    """Answer with the version."""
    return json_response(Version(__version__))
