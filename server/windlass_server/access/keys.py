"""The keys that a server knows, as digests."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from windlass.errors import ConfigError
from windlass_server.access.caller import Caller, owner_of
from windlass_server.access.key_file import read_key_file
from windlass_server.access.settings import AccessSettings, KeyLimits


def digest_of(key: str) -> bytes:
    """Return the SHA-256 of a key, the only thing that is kept of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its holder; `expires` is in seconds of the system's clock."""

    digest: bytes = field(repr=False)
    caller: Caller
    expires: float | None = None


class KeyRing:
    """All keys of a server; false when there are none, and so everyone is let in."""

    def __init__(self, keys: Sequence[Key] = (), clock: Callable[[], float] = time.time) -> None:
        names: dict[bytes, str] = {}
        for key in keys:
            if key.digest in names:
                first, second = names[key.digest], key.caller.name
                raise ConfigError(f"the keys {first!r} and {second!r} are the same")
            names[key.digest] = key.caller.name
        self._keys = tuple(keys)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def callers(self) -> list[Caller]:
        """The holders of all keys, expired ones too."""
        return [key.caller for key in self._keys]

    @property
    def has_admins(self) -> bool:
        """Whether any key is an admin key."""
        return any(key.caller.admin for key in self._keys)

    def find(self, given: Iterable[str]) -> Caller | None:
        """Return the holder of the first key that is known and has not expired.

        Every key is compared with every digest: the time tells nothing about which one is near.
        """
        digests = [digest_of(key) for key in given]
        found = [
            key
            for digest in digests
            for key in self._keys
            if hmac.compare_digest(digest, key.digest)
        ]
        now = self._clock()
        valid = (key.caller for key in found if key.expires is None or now < key.expires)
        return next(valid, None)


def load_keys(settings: AccessSettings) -> KeyRing:
    """Return the keys of the flags and of the key file.

    Raises:
        ConfigError: the file cannot be read or is wrong, or two keys are the same.
    """
    plain = _flag_keys("api-key", settings.api_keys, settings.limits)
    admin = _flag_keys("admin-api-key", settings.admin_api_keys, settings.limits, admin=True)
    return KeyRing([*plain, *admin, *_file_keys(settings)])


def _flag_keys(
    flag: str, keys: Sequence[str], limits: KeyLimits, *, admin: bool = False
) -> list[Key]:
    digests = [digest_of(key) for key in dict.fromkeys(keys)]
    return [
        Key(digest, Caller(f"{flag}-{number}", owner_of("key", digest.hex()), admin, limits))
        for number, digest in enumerate(digests, 1)
    ]


def _file_keys(settings: AccessSettings) -> list[Key]:
    if settings.api_key_file is None:
        return []
    keys = []
    for entry in read_key_file(settings.api_key_file):
        digest = digest_of(entry.key) if entry.key else bytes.fromhex(entry.sha256 or "")
        caller = Caller(
            entry.name,
            owner_of("name", entry.name),
            entry.admin,
            entry.limits(settings.limits),
            entry.weight,
        )
        expires = entry.expires.timestamp() if entry.expires is not None else None
        keys.append(Key(digest, caller, expires))
    return keys
