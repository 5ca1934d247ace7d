"""`GET /windlass/view`: what the engine does now, for the page and for operators."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.access.permissions import require_operator
from windlass_server.routes.request import server_state

router = APIRouter()


@router.get("/windlass/view")
async def view(request: Request) -> Response:
    """Answer with the view that an engine has of itself; 503 while there is none.

    Without `model` it is the engine that was used last.
    """
    require_operator(request)
    state = server_state(request)
    name = request.query_params.get("model")
    if name is None and state.models.loaded:
        name = state.models.loaded[-1].settings.name
    engine = state.serving_engine(name)
    body = await state.models.of(engine).views.body(engine)
    return Response(body, media_type="application/json")
