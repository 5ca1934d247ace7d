"""Messages to a child process and back, over the pipes of its standard input and output.

A message is a length of 4 bytes, big-endian, and then so many bytes.
"""

from __future__ import annotations

import struct
from typing import IO

_LENGTH = struct.Struct("!I")


def write_message(pipe: IO[bytes], data: bytes) -> None:
    """Send a message."""
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def read_message(pipe: IO[bytes]) -> bytes:
    """Return the next message.

    Raises:
        EOFError: the other end is gone.
    """
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    return _read(pipe, length)


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
