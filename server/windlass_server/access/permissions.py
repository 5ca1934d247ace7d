"""Which callers may change the server, and which may look into it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from windlass_server.access.caller import caller
from windlass_server.errors import ApiError
from windlass_server.routes.request import server_state
from windlass_server.settings import ServerSettings, is_loopback


def require_admin(request: Request) -> None:
    """Let an admin key through; without any key, whoever reaches a server that listens locally.

    Raises:
        ApiError: 403.
    """
    state = server_state(request)
    if state.access.keys:
        if not caller(request).admin:
            raise _needs_admin_key("This needs an admin key")
    elif not state.settings.is_local:
        raise _needs_admin_key("Without keys this is open only where the server listens locally")
    elif _is_foreign_page(request, state.settings):
        raise _needs_admin_key("Without keys this is not open to other sites' pages or names")


def require_operator(request: Request) -> None:
    """Let an admin key through, or any caller where no admin key is configured.

    Raises:
        ApiError: 403.
    """
    if server_state(request).access.keys.has_admins and not caller(request).admin:
        raise _needs_admin_key("This needs an admin key")


def _needs_admin_key(reason: str) -> ApiError:
    message = f"{reason}: see --admin-api-key of windlass serve."
    return ApiError(403, message, type="permission_error", code="admin_key_required")


def _is_foreign_page(request: Request, settings: ServerSettings) -> bool:
    """Whether a browser sends this for a page of another site, or under a name made to lead here.

    Any page may let its reader's browser send requests to servers of the reader's own host.
    """
    if settings.uds:
        return False
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    try:
        named = is_loopback(urlsplit(f"//{host}").hostname or "")
        foreign = origin is not None and urlsplit(origin).netloc != host
    except ValueError:
        return True
    return not named or (foreign and origin not in settings.allowed_origins)
