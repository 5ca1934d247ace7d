"""Calls with keys, and a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from windlass_server.access.rate_limits import RateLimits

if TYPE_CHECKING:
    from windlass_server.state import ServerState

HELLO: dict[str, Any] = {"role": "user", "content": "Hello"}
MODEL = {"model": "fake-model"}
GENERATING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**MODEL, "messages": [HELLO], "max_tokens": 5},
    "/v1/completions": {**MODEL, "prompt": "Hello", "max_tokens": 5},
    "/v1/responses": {**MODEL, "input": "Hello", "max_output_tokens": 20},
    "/v1/messages": {**MODEL, "messages": [HELLO], "max_tokens": 5},
}
"""Route -> a body that it answers."""
CHAT = "/v1/chat/completions"


def key(name: str) -> dict[str, str]:
    """Return the header that brings a key."""
    return {"authorization": f"Bearer {name}"}


def error_of(response: Any) -> dict[str, Any]:
    """Return the error object; on Anthropic's routes its type and message are all there is."""
    error: dict[str, Any] = response.json()["error"]
    return error


async def wait_for(condition: Callable[[], object]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def turn(self, state: ServerState) -> None:
        """Let the limits of a server run by this clock."""
        counted = state.metrics.rate_limited
        state.access.limits = RateLimits(lambda limit: counted[limit].inc(), self)
