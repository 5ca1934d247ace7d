"""Which API process a request belongs to, and the layer that takes it there.

A response is kept by the process that made it. Its number stands in the ids of the response and of
its items; a request that names one is answered there, so that a conversation stays in one process.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windlass_server.access.caller import runs_as
from windlass_server.chat.answer import ID_MARK
from windlass_server.errors import invalid_request
from windlass_server.processes.control import Place
from windlass_server.processes.peers import Peers, is_from_peer
from windlass_server.processes.share import KEEPER

_RESPONSES = "/v1/responses"
_TAKES_IDS = (_RESPONSES, f"{_RESPONSES}/input_tokens")
_OF_KEEPER = ("/v1/files", "/v1/batches", "/windlass/view")
_OF_WHOLE_SERVER = ("/sleep", "/wake_up", "/is_sleeping", "/models/load", "/models/unload")

_MARKED = re.compile(r"[a-z]+_p([0-9]{1,2})_")
_MARKED_BYTES = re.compile(rb'"[a-z]+_p[0-9]{1,2}_')


def mark_of(place: Place) -> str:
    """Return what the ids that a process makes have behind their prefix."""
    return f"p{place.index}_"


def holder_of(name: object, place: Place) -> int | None:
    """Return the number in an id; None when there is none, or no such process."""
    found = _MARKED.match(name) if isinstance(name, str) else None
    index = int(found[1]) if found else place.count
    return index if index < place.count else None


class _Named(msgspec.Struct):
    """The fields of a body that can name responses and their items."""

    previous_response_id: Any = None
    input: Any = None


def holder_in(body: bytes, place: Place) -> int | None:
    """Return the process that a body's first known id belongs to; None without one."""
    if not _MARKED_BYTES.search(body):
        return None
    try:
        named = msgspec.json.decode(body, type=_Named)
    except (ValueError, RecursionError):
        return None  # the route says what is wrong with it
    items = named.input if isinstance(named.input, list) else []
    references = [item.get("id") for item in items if _is_reference(item)]
    holders = (holder_of(name, place) for name in (named.previous_response_id, *references))
    return next((holder for holder in holders if holder is not None), None)


def _is_reference(item: object) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


class HandOver:
    """The innermost layer: hands requests that belong to another API process over to it."""

    def __init__(self, app: ASGIApp, peers: Peers) -> None:
        self._app = app
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request here or elsewhere."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = self._peers.place
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in _OF_WHOLE_SERVER:
            text = f"{path} is not supported by a server with --api-server-count {place.count}."
            raise invalid_request(text, code="unsupported_endpoint")
        ID_MARK.set(mark_of(place))
        holder = place.index
        if not is_from_peer(scope) and runs_as(scope) is None:
            found, receive = await self._find(path, scope["method"], receive)
            holder = holder if found is None else found
        if holder == place.index:
            await self._app(scope, receive, send)
        else:
            await self._peers.forward(holder, scope, receive, send)

    async def _find(self, path: str, method: str, receive: Receive) -> tuple[int | None, Receive]:
        """Return whose request it is, and a `receive` that still has the whole body."""
        if any(path == start or path.startswith(start + "/") for start in _OF_KEEPER):
            return KEEPER, receive
        if not path.startswith(_RESPONSES):
            return None, receive
        if path in _TAKES_IDS and method == "POST":
            messages = await _whole_body(receive)
            body = b"".join(message.get("body", b"") for message in messages)
            return holder_in(body, self._peers.place), _replayed(messages, receive)
        name = path.removeprefix(_RESPONSES + "/").partition("/")[0]
        return holder_of(name, self._peers.place), receive


async def _whole_body(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def replay() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return replay
