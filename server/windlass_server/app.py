"""The ASGI application: routes and the layers around them."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.access.authentication import Authentication
from windlass_server.batches.upload import FORM_BYTES
from windlass_server.errors import to_api_error
from windlass_server.middleware import BodyLimit, Boundary
from windlass_server.openapi import describe
from windlass_server.processes.holders import HandOver
from windlass_server.routes import (
    batches,
    chat_completions,
    completions,
    embeddings,
    files,
    loading,
    lora,
    messages,
    models,
    operations,
    page,
    responses,
    scores,
    server_info,
    tokenization,
    view,
)
from windlass_server.state import ServerState

ROUTES = (
    *(chat_completions, completions, responses, messages),
    *(embeddings, scores),
    *(files, batches),
    *(tokenization, models, loading, lora),
    *(operations, server_info, view),
)

EXPOSED_HEADERS = (
    *("x-request-id", "x-windlass-warning", "retry-after", "retry-after-ms"),
    *(
        f"x-ratelimit-{what}-{unit}"
        for unit in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
)
"""What scripts of allowed origins may read of an answer's head."""


async def _http_error(_request: Request, exc: Exception) -> Response:
    """Hand the router's own refusals to the error boundary, as all others."""
    raise to_api_error(exc)


def create_app(state: ServerState) -> FastAPI:
    """Return the application that serves `state`; its layers from the inside out: the way to
    other API processes where there are any, body limit, key, error boundary, CORS.
    """
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.openapi = cache(lambda: describe(app))  # type: ignore[method-assign]
    app.state.server = state
    settings = state.settings
    for module in ROUTES:
        app.include_router(module.router)
    if settings.ui:
        app.include_router(page.router)
    app.add_exception_handler(HTTPException, _http_error)
    if state.peers is not None:
        app.add_middleware(HandOver, peers=state.peers)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        timeout=settings.body_timeout,
        by_path={"/v1/files": settings.batches.max_file_bytes + FORM_BYTES},
    )
    app.add_middleware(Authentication, control=state.access, public_paths=settings.public_paths)
    app.add_middleware(Boundary, state=state)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    return app
