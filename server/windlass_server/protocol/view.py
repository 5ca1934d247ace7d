"""What `GET /windlass/view` answers."""

from __future__ import annotations

import msgspec

from windlass.engine.view import EngineView


class Seconds(msgspec.Struct, frozen=True):
    """Durations since the server started: their sum in seconds and how many there were."""

    sum: float
    count: float


class ServerView(msgspec.Struct, kw_only=True):
    """The engine at one moment, and the latencies that its clients saw.

    `uptime` is in seconds; two views tell rates by the difference of their counters over the
    difference of their uptimes. Counters of `engine.stats` start again when `restarts` grows.
    """

    object: str = "engine.view"
    model: str
    device: str
    uptime: float
    restarts: int
    first_token: Seconds
    inter_token: Seconds
    engine: EngineView
