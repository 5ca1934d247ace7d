"""`GET /load` and `GET /server_info`, for operators and load balancers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.access.permissions import require_operator
from windlass_server.operations.description import info_of, load_of
from windlass_server.routes.request import json_response, server_state

router = APIRouter()


@router.get("/load")
async def load(request: Request) -> Response:
    """Answer with how many sequences run and wait, and how full the KV cache is."""
    require_operator(request)
    return json_response(load_of(server_state(request)))


@router.get("/server_info")
async def server_info(request: Request) -> Response:
    """Answer with versions, settings without secrets, and the facts of the engines."""
    require_operator(request)
    return json_response(info_of(server_state(request)))
