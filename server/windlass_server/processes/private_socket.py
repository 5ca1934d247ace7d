"""Answers what other API processes hand on, on a Unix socket that only they can reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_server.lifecycle import http_server, listen
from windlass_server.processes.control import Start
from windlass_server.processes.peers import mark_from_peer


@asynccontextmanager
async def answering_peers(app: ASGIApp, start: Start) -> AsyncIterator[None]:
    """Serve `app` on the private socket of this process."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        mark_from_peer(scope)
        await app(scope, receive, send)

    settings = replace(
        start.settings,
        uds=start.place.socket_of(start.place.index),
        operations=replace(start.settings.operations, tls=None),
    )
    server = http_server(marked, settings)
    serving = asyncio.create_task(server.serve(sockets=[listen(settings)]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
