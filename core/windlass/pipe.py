"""Messages to a child process and back, over the pipes of its standard input and output.

A message is a length of 4 bytes, big-endian, and then so many bytes.
"""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_LENGTH = struct.Struct("!I")


def frame(data: bytes) -> bytes:
    """Return a message as it goes through a pipe."""
    return _LENGTH.pack(len(data)) + data


def write_message(pipe: IO[bytes], data: bytes) -> None:
    """Send a message."""
    pipe.write(frame(data))
    pipe.flush()


def read_message(pipe: IO[bytes]) -> bytes:
    """Return the next message.

    Raises:
        EOFError: the other end is gone.
    """
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    return _read(pipe, length)


async def receive_message(reader: asyncio.StreamReader) -> bytes:
    """Return the next message, waiting for it on the event loop.

    Raises:
        EOFError: the other end is gone.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(length)


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
