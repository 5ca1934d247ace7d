"""The layer that asks for a key on every path that is not public, known to the app or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_server.access.caller import ANYONE, Caller, authenticated, runs_as
from windlass_server.errors import invalid_api_key

if TYPE_CHECKING:
    from windlass_server.access.control import AccessControl


class Authentication:
    """Finds the caller of every HTTP request; compares the path that routes see."""

    def __init__(self, app: ASGIApp, control: AccessControl, public_paths: frozenset[str]) -> None:
        self._app = app
        self._control = control
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through with its caller noted, or raise a 401."""
        if scope["type"] == "http":
            authenticated(scope, runs_as(scope) or self._find(scope))
        await self._app(scope, receive, send)

    def _find(self, scope: Scope) -> Caller:
        keys = self._control.keys
        if not keys or scope["path"] in self._public_paths:
            return ANYONE
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        given += [headers["x-api-key"]] if "x-api-key" in headers else []
        found = keys.find(given)
        if found is None:
            raise invalid_api_key(bool(given))
        return found
