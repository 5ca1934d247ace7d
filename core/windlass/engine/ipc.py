"""What crosses between a front end and its engine process, and the socket that carries it.

Every frame is one msgpack message of a closed set of types: nothing in it can name code. A frame
that is none of them is dropped and counted, and the peer stays. The socket is a ZeroMQ PAIR on a
Unix socket in a folder of mode 0700, which the front end removes as soon as its engine has
connected: after that nobody else can connect, and nothing is left behind whoever dies.

The front end that started the engine owns it, and may have it serve further ones (`Attach`), each
over such a socket of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, cast

import msgspec
import zmq

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.view import EngineView
from windlass.errors import ConfigError, RequestError, WindlassError
from windlass.request import Request


class Hello(msgspec.Struct, tag="hello"):
    """The first message to an engine: what to load."""

    config: EngineConfig


class AddRequests(msgspec.Struct, tag="add"):
    """New sequences."""

    requests: list[Request]


class Abort(msgspec.Struct, tag="abort"):
    """Forget these sequences; ids that are not known are ignored."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, tag="reset_prefix_cache"):
    """Drop cached blocks; answered by `PrefixCacheReset`."""


class Inspect(msgspec.Struct, tag="inspect"):
    """Ask what the engine looks like inside; answered by `Inspected`."""


class Attach(msgspec.Struct, tag="attach"):
    """Serve one more front end, which listens at `endpoint` and is told `Ready` there."""

    endpoint: str
    front_end: int


class Detach(msgspec.Struct, tag="detach"):
    """A front end that was attached is gone: forget it and its sequences."""

    front_end: int


class Shutdown(msgspec.Struct, tag="shutdown"):
    """End the process; what is still running is dropped."""


class LoadProgress(msgspec.Struct, tag="progress"):
    """What the engine loads now and the share done, 0 to 1. The first one asks for `Hello`."""

    what: str
    share: float


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded."""

    info: ModelInfo


class Outputs(msgspec.Struct, tag="outputs"):
    """The news of one step."""

    outputs: list[SequenceOutput]
    stats: EngineStats


class RequestRejected(msgspec.Struct, tag="rejected"):
    """The engine refused a sequence: it was never scheduled."""

    request_id: str
    message: str
    param: str | None
    code: str


class PrefixCacheReset(msgspec.Struct, tag="prefix_cache_reset"):
    """Answer to `ResetPrefixCache`."""

    done: bool


class Inspected(msgspec.Struct, tag="inspected"):
    """Answer to `Inspect`."""

    view: EngineView


class Failed(msgspec.Struct, tag="failed"):
    """The start failed, in one line; `error` is the name of the class in `windlass.errors`."""

    message: str
    error: str


ToEngine: TypeAlias = (
    Hello | AddRequests | Abort | ResetPrefixCache | Inspect | Attach | Detach | Shutdown
)
FromEngine: TypeAlias = (
    LoadProgress | Ready | Outputs | RequestRejected | PrefixCacheReset | Inspected | Failed
)

Message = TypeVar("Message")
Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


class FrameDecoder(Generic[Message]):
    """Decodes frames of one direction; `malformed` counts those that it dropped."""

    def __init__(self, messages: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(messages)
        self.malformed = 0

    def decode(self, frame: bytes) -> Message | None:
        """Return the message, or None when the frame is not one."""
        try:
            return self._decoder.decode(frame)
        except (ValueError, TypeError, RecursionError, MemoryError, WindlassError):
            self.malformed += 1
            return None


def to_engine_decoder() -> FrameDecoder[ToEngine]:
    """Return a decoder for what an engine receives."""
    return FrameDecoder(ToEngine)


def from_engine_decoder() -> FrameDecoder[FromEngine]:
    """Return a decoder for what a front end receives."""
    return FrameDecoder(FromEngine)


def check_requests(requests: list[Request]) -> None:
    """Refuse what the engine could not decode and would drop, leaving its client to wait.

    Raises:
        RequestError: a field has a wrong type.
    """
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(AddRequests(requests)), type=AddRequests)
    except (msgspec.ValidationError, TypeError, OverflowError) as error:
        raise RequestError(f"A field of the request has a wrong type: {error}") from error


class SocketFolder:
    """A fresh private folder for sockets whose names are short.

    Raises:
        ConfigError: no temporary folder has a path short enough for a Unix socket.
    """

    def __init__(self) -> None:
        self.path = self._create()
        self.endpoint = f"ipc://{self.path / 's'}"

    @staticmethod
    def _create() -> Path:
        for parent in (tempfile.gettempdir(), "/tmp"):
            path = Path(tempfile.mkdtemp(prefix="windlass-", dir=parent))
            if len(str(path / "s").encode()) < zmq.IPC_PATH_MAX_LEN:
                return path
            path.rmdir()
        raise ConfigError(
            f"the temporary folder {tempfile.gettempdir()} is too long a path for a Unix socket "
            f"(limit {zmq.IPC_PATH_MAX_LEN} bytes): set TMPDIR to a shorter one"
        )

    def remove(self) -> None:
        """Remove the folder and the socket's name; an open connection goes on."""
        shutil.rmtree(self.path, ignore_errors=True)


class EngineChannel:
    """The engine's end of the link to one front end: blocking.

    Without a `context` it makes one of its own, which several channels of a process may share.
    """

    def __init__(
        self, endpoint: str, context: zmq.Context[zmq.Socket[bytes]] | None = None
    ) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = context or zmq.Context()
        self._owns_context = context is None
        self.socket = self.context.socket(zmq.PAIR)
        # A front end listens once: when it is gone there is nothing to reconnect to.
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.set_hwm(0)
        self.socket.connect(endpoint)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = to_engine_decoder()

    @property
    def malformed(self) -> int:
        """Frames dropped so far."""
        return self._decoder.malformed

    def receive(self, *, wait: bool) -> ToEngine | None:
        """Return the next message; None when there is none, or, with `wait`, no valid one."""
        try:
            frame = self.socket.recv(0 if wait else zmq.NOBLOCK)
        except zmq.Again:
            return None
        return self._decoder.decode(frame)

    def pending(self) -> bool:
        """Whether a frame can be received without waiting."""
        return bool(cast(int, self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, message: FromEngine) -> None:
        """Send without ever waiting for the front end."""
        try:
            self.socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # The front end closed its end; its death ends this process by another way.
            return

    def close(self) -> None:
        """Close after what was sent has left, for at most a second."""
        self.socket.close(linger=1000)
        if self._owns_context:
            self.context.term()


class ClientChannel:
    """The front end's end of the link, on the running event loop.

    `on_message` is called with every valid message, on the loop's thread. The engine speaks
    first; it is answered with `greeting`, if there is one.
    """

    # A front end that lags behind merges a few steps; its other tasks must not wait for more.
    _MESSAGES_PER_TURN = 8

    def __init__(self, on_message: Callable[[FromEngine], None], greeting: ToEngine | None) -> None:
        self._on_message = on_message
        self._greeting = greeting
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = from_engine_decoder()
        self._folder = SocketFolder()
        self._connected = False
        self._closed = False
        self._drain_is_due = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.bind(self.endpoint)
        self._reader = self._socket.fileno()
        self._loop.add_reader(self._reader, self.drain)

    @property
    def endpoint(self) -> str:
        """The address that the engine connects to, once."""
        return self._folder.endpoint

    @property
    def malformed(self) -> int:
        """Frames dropped so far."""
        return self._decoder.malformed

    def send(self, message: ToEngine) -> None:
        """Send without waiting; what a dead engine cannot take is lost with it."""
        if self._closed:
            return
        try:
            self._socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return
        finally:
            # ZeroMQ's descriptor signals edges, and sending may have swallowed one.
            self._drain_soon()

    def drain(self, limit: int = _MESSAGES_PER_TURN) -> None:
        """Deliver what has arrived, giving other tasks a turn after `limit` messages."""
        self._drain_is_due = False
        for _ in range(limit):
            if self._closed:
                return
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._deliver(frame)
        self._drain_soon()

    def drain_all(self) -> None:
        """Deliver everything that has arrived."""
        self.drain(limit=sys.maxsize)

    def _drain_soon(self) -> None:
        if not self._drain_is_due:
            self._drain_is_due = True
            self._loop.call_soon(self.drain)

    def _deliver(self, frame: bytes) -> None:
        message = self._decoder.decode(frame)
        if message is None:
            return
        if not self._connected:
            self._connected = True
            self._folder.remove()
            if self._greeting is not None:
                self.send(self._greeting)
        self._on_message(message)

    def close(self) -> None:
        """Close at once; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._reader)
        self._socket.close(linger=0)
        self._context.term()
        self._folder.remove()
