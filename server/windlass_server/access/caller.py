"""Who makes a request: found by authentication, read by everything behind it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import cast

from starlette.requests import HTTPConnection
from starlette.types import Scope

from windlass_server.access.settings import NO_LIMITS, KeyLimits

_CALLER = "caller"
_RUNS_AS = "runs_as"


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key.

    `owner` says whose a stored thing is: the same after a restart, safe in file names, and no
    secret; "" on a server without keys. `weight` is the caller's share of a busy engine, relative
    to the others' shares.
    """

    name: str
    owner: str
    admin: bool = False
    limits: KeyLimits = NO_LIMITS
    weight: float = 1.0


ANYONE = Caller("", "")
"""The caller on a server without keys, and on paths that need none."""


def owner_of(kind: str, value: str) -> str:
    """Return the `owner` for what identifies a caller: 32 hexadecimal digits."""
    return hashlib.sha256(f"windlass {kind}\0{value}".encode()).hexdigest()[:32]


class _RunsAs:
    """Marks a request that comes from inside the process: HTTP cannot bring such an object."""

    __slots__ = ("caller",)

    def __init__(self, caller: Caller) -> None:
        self.caller = caller


def run_as(scope: Scope, caller: Caller) -> None:
    """Let a request that this process makes itself run for `caller`.

    It needs no key, and neither rate limits nor the server's deadlines hold for it; it takes part
    in the fair sharing between callers. Its `receive` must block once the body is read, for it is
    asked whether the client has gone.
    """
    scope.setdefault("state", {})[_RUNS_AS] = _RunsAs(caller)


def runs_as(scope: Scope) -> Caller | None:
    """Return whom a request from inside the process runs for; None for all other requests."""
    marker = scope.get("state", {}).get(_RUNS_AS)
    return marker.caller if isinstance(marker, _RunsAs) else None


def authenticated(scope: Scope, caller: Caller) -> None:
    """Note who makes the request."""
    scope.setdefault("state", {})[_CALLER] = caller


def caller(request: HTTPConnection | Scope) -> Caller:
    """Return who makes the request that authentication has let in."""
    scope = request.scope if isinstance(request, HTTPConnection) else request
    return cast(Caller, scope["state"][_CALLER])
