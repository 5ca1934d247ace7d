"""Work that goes on no longer than its client stays."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from windlass_server.errors import shutting_down

Result = TypeVar("Result")


class ClientDisconnected(Exception):
    """Nobody is there to read the answer."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel(*tasks: asyncio.Task[object] | asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_disconnect(
    work: Coroutine[None, None, Result], receive: Receive, stopping: asyncio.Event
) -> Result:
    """Run `work`, but no longer than the client stays and the server may wait.

    Raises:
        ClientDisconnected: the client went away; `work` has been cancelled.
        ApiError: the server stops now; `work` has been cancelled.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((task, gone, stop), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnected
        raise shutting_down()
    finally:
        await cancel(task, gone, stop)
