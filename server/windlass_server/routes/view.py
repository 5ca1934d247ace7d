"""`GET /windlass/view`: what the engine does now, for the page and for operators."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.routes.request import server_state

router = APIRouter()


@router.get("/windlass/view")
async def view(request: Request) -> Response:
    """Answer with the engine's view of itself; 503 while there is no engine."""
    state = server_state(request)
    body = await state.views.body(state.serving_engine())
    return Response(body, media_type="application/json")
