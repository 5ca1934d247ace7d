"""The file of keys: TOML with one `[[keys]]` table per key."""

from __future__ import annotations

import logging
import stat
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from windlass.errors import ConfigError
from windlass_server.access.settings import KeyLimits

logger = logging.getLogger(__name__)

MAX_WEIGHT = 1000.0
_MAX_FILE_BYTES = 16 * 1024 * 1024
_Limit = Annotated[int, Meta(ge=0, le=2**53)]


class KeyEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One key: itself or its SHA-256, and what its holder may do; 0 is no limit.

    What is not said of a limit is what the flags say. `weight` is the share of a busy engine.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
    key: Annotated[str, Meta(min_length=1)] | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{64}\Z")] | None = None
    admin: bool = False
    requests_per_minute: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    max_concurrent_requests: _Limit | None = None
    weight: Annotated[float, Meta(gt=0, le=MAX_WEIGHT)] = 1.0
    expires: Annotated[datetime, Meta(tz=True)] | None = None

    def limits(self, default: KeyLimits) -> KeyLimits:
        """Return the limits of this key; `default` holds where it says nothing."""

        def chosen(own: int | None, others: int) -> int:
            return others if own is None else own

        return KeyLimits(
            requests_per_minute=chosen(self.requests_per_minute, default.requests_per_minute),
            tokens_per_minute=chosen(self.tokens_per_minute, default.tokens_per_minute),
            max_concurrent_requests=chosen(
                self.max_concurrent_requests, default.max_concurrent_requests
            ),
        )


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[KeyEntry]


def read_key_file(path: str) -> list[KeyEntry]:
    """Return the entries of a key file; warn when others than its owner may read it.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; no key is in the text.
    """
    try:
        mode, data = Path(path).stat().st_mode, _read(path)
    except OSError as exc:
        raise ConfigError(f"cannot read the key file {path}: {exc.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("Others than its owner have access to the key file %s: chmod 600 it", path)
    try:
        entries = msgspec.toml.decode(data, type=_KeyFile).keys
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} is not UTF-8 text") from None
    except msgspec.DecodeError as exc:
        raise ConfigError(f"the key file {path} is wrong: {exc}") from None
    _check(entries, path)
    return entries


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"the key file {path} is larger than {_MAX_FILE_BYTES} bytes")
    return data


def _check(entries: list[KeyEntry], path: str) -> None:
    if not entries:
        # An empty list would open the server to everyone.
        raise ConfigError(f"the key file {path} holds no [[keys]]")
    names = set()
    for entry in entries:
        if (entry.key is None) == (entry.sha256 is None):
            text = f"the key {entry.name!r} must have either 'key' or 'sha256'"
            raise ConfigError(f"the key file {path} is wrong: {text}")
        if entry.name in names:
            raise ConfigError(f"the key file {path} is wrong: two keys are named {entry.name!r}")
        names.add(entry.name)
