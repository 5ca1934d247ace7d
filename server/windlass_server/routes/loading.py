"""Memory back and forth: `/sleep`, `/wake_up`, `/is_sleeping`, `/models/load`, `/models/unload`.

The paths and parameters are those of vLLM and of llama.cpp's server.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass.errors import WindlassError
from windlass_server.access.permissions import require_admin, require_operator
from windlass_server.body import parse_body
from windlass_server.errors import invalid_request, server_error, unsupported
from windlass_server.models.pool import ModelPool
from windlass_server.models.served_model import ServedModel
from windlass_server.protocol.loading import Done, LoadRequest, Sleeping
from windlass_server.routes.request import json_response, server_state

router = APIRouter()


@router.post("/sleep")
async def sleep(request: Request) -> Response:
    """Give a model's memory back (every model's, without `model`) until it is woken.

    `level` is 1 or 2 and makes no difference: the whole engine process ends. `mode` says what
    happens to running requests: `wait` for them, or `abort` them with an error.
    """
    require_admin(request)
    query = request.query_params
    if query.get("level", "1") not in ("1", "2"):
        raise invalid_request("'level' must be 1 or 2.", "level", "invalid_value")
    mode = query.get("mode", "wait")
    if mode not in ("wait", "abort"):
        raise invalid_request("'mode' must be wait or abort.", "mode", "invalid_value")
    pool, models = _named(request)
    for model in models:
        await pool.unload(model, sleep=True, abort=mode == "abort")
    return json_response(Done())


@router.post("/wake_up")
async def wake_up(request: Request) -> Response:
    """Let a model (every model, without `model`) serve again; answers when it is loaded.

    Of several models, as many are loaded as fit; the others are when they are asked for.
    """
    require_admin(request)
    if "tags" in request.query_params:
        raise unsupported("tags", "'tags' is not supported: a model wakes as a whole.")
    pool, models = _named(request)
    for model in models:
        model.asleep = False
    for model in models[: pool.room]:
        await _load(pool, model)
    return json_response(Done())


@router.get("/is_sleeping")
async def is_sleeping(request: Request) -> Response:
    """Tell whether a model (each of them, without `model`) sleeps."""
    require_operator(request)
    _, models = _named(request)
    return json_response(Sleeping(all(model.asleep for model in models)))


@router.post("/models/load")
async def load(request: Request) -> Response:
    """Load a model before anybody asks for it; answers when it is loaded."""
    require_admin(request)
    body = await parse_body(request, LoadRequest)
    pool = _pool(request)
    await _load(pool, pool.find(body.model))
    return json_response(Done())


@router.post("/models/unload")
async def unload(request: Request) -> Response:
    """Unload a model when what runs on it has finished; the next request loads it again."""
    require_admin(request)
    body = await parse_body(request, LoadRequest)
    pool = _pool(request)
    await pool.unload(pool.find(body.model))
    return json_response(Done())


def _pool(request: Request) -> ModelPool:
    state = server_state(request)
    state.require_serving()
    return state.models


def _named(request: Request) -> tuple[ModelPool, tuple[ServedModel, ...]]:
    pool = _pool(request)
    name = request.query_params.get("model")
    return pool, pool.models if name is None else (pool.find(name),)


async def _load(pool: ModelPool, model: ServedModel) -> None:
    try:
        await pool.load(model)
    except WindlassError as exc:
        # An operator asks, who may know what the log says anyway.
        text = f"The model '{model.settings.name}' could not be loaded: {exc}"
        raise server_error(text, "model_load_failed", retry=False) from exc
