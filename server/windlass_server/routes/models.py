"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from fastapi import APIRouter
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.protocol.models import Model, ModelList, ModelStatus
from windlass_server.routes.request import json_response, server_state
from windlass_server.state import ServerState

router = APIRouter()


def _model(state: ServerState, name: str) -> Model:
    model = state.models.find(name)
    limit = UNSET if model.info is None else model.info.max_model_len
    return Model(name, state.created, model.settings.name, limit, ModelStatus(model.status))


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List the names that requests may use."""
    state = server_state(request)
    state.require_serving()
    names = [name for model in state.models.models for name in model.settings.names]
    return json_response(ModelList([_model(state, name) for name in names]))


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> Response:
    """Describe one name."""
    state = server_state(request)
    state.require_serving()
    return json_response(_model(state, model))
