"""What crosses between the supervisor and an API process, over the pipes of its standard streams.

A closed set of msgpack types, framed as in `windlass.pipe`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from windlass.config import EngineConfig
from windlass.engine.ipc import Failed
from windlass_server.settings import ServerSettings


class Place(msgspec.Struct, frozen=True):
    """Which API process this is, from 0 on, and the folder with the private socket of each.

    `created` is when the server started, in seconds since 1970.
    """

    index: int
    count: int
    folder: str
    created: int

    def socket_of(self, index: int) -> str:
        """Return the path of a process's private socket."""
        return f"{self.folder}/{index}"


class Start(msgspec.Struct, tag="start"):
    """The first message: what to serve, where to listen (a descriptor), and as what.

    `front_end` is the number that the engine knows this process by. No successor has it again.
    """

    settings: ServerSettings
    config: EngineConfig
    listener: int
    place: Place
    front_end: int


class EngineUp(msgspec.Struct, tag="engine_up"):
    """There is an engine to be attached to."""

    pid: int
    restarts: int


class EngineDown(msgspec.Struct, tag="engine_down"):
    """The engine died; another one comes after `retry_after` seconds, or none with None."""

    message: str
    retry_after: float | None


class AttachMe(msgspec.Struct, tag="attach_me"):
    """An API process listens at `endpoint` for the engine."""

    endpoint: str


class EngineHangs(msgspec.Struct, tag="engine_hangs"):
    """An API process waits for answers and saw no step end for too long."""

    cause: str


class Serving(msgspec.Struct, tag="serving"):
    """An API process answers requests."""


ToApiProcess: TypeAlias = Start | EngineUp | EngineDown
FromApiProcess: TypeAlias = AttachMe | EngineHangs | Serving | Failed
