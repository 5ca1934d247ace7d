"""Keys, limits per key and deadlines, frozen; their flags, and the way from one to the other.

Imported to show help, so nothing heavy is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from windlass.errors import ConfigError

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """How much one key may ask for; 0 is no limit.

    Tokens are those of prompts and answers together. What is concurrent is counted in API calls,
    however many answers each asks for.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent_requests: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 0:
                raise ConfigError(f"{one.name} of a key must be at least 0")


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may call and how much.

    Without any key everyone is let in. `limits` hold for each key whose entry in `api_key_file`
    says nothing else. Timeouts are in seconds, None is no timeout. With `separate_prefix_caches`
    no key's prompt is found in the cache by another key's. `max_queued_requests` (calls)
    and `max_queued_tokens` bound what waits of each key when several share the engine, 0 is no
    bound; they are the engine's bounds of the same names.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: str | None = None
    limits: KeyLimits = NO_LIMITS
    queue_timeout: float | None = None
    request_timeout: float | None = None
    separate_prefix_caches: bool = False
    max_queued_requests: int = 2048
    max_queued_tokens: int = 0

    def __post_init__(self) -> None:
        for name, keys in (("api_key", self.api_keys), ("admin_api_key", self.admin_api_keys)):
            if any(not key for key in keys):
                raise ConfigError(f"{name} must not be empty")
        if set(self.api_keys) & set(self.admin_api_keys):
            raise ConfigError("a key is given both as api_key and as admin_api_key")
        for name in ("queue_timeout", "request_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigError(f"{name} must be a number of seconds above 0, not {seconds}")

    @property
    def has_keys(self) -> bool:
        """Whether callers need a key."""
        return bool(self.api_keys or self.admin_api_keys or self.api_key_file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of keys, limits and deadlines."""
    group = parser.add_argument_group("keys")
    for flag, text in (
        ("--api-key", "require this key (or one of several) on every route but the probes"),
        ("--admin-api-key", "a key that may also change the server: required by routes that do"),
    ):
        group.add_argument(flag, action="append", default=[], metavar="KEY", help=text)
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="TOML file with keys and their limits; read again on SIGHUP",
    )
    for flag, text in (
        ("--key-requests-per-minute", "requests that each key may make in a minute; 0: any number"),
        ("--key-tokens-per-minute", "tokens of prompts and answers of each key in a minute"),
        ("--key-max-concurrent-requests", "requests of each key that may run or wait at a time"),
    ):
        group.add_argument(flag, type=int, default=0, metavar="N", help=text)
    group.add_argument(
        "--separate-prefix-caches",
        action="store_true",
        help="keys do not share cached prompts: none can tell by the time what another sent",
    )
    group = parser.add_argument_group("deadlines")
    for flag, text in (
        ("--queue-timeout", "how long a request may wait for its first output (default: any time)"),
        ("--request-timeout", "how long a request may take (default: any time)"),
    ):
        group.add_argument(flag, type=float, metavar="SECONDS", help=text)


def from_arguments(args: argparse.Namespace) -> AccessSettings:
    """Return what the flags say.

    Raises:
        ConfigError: a value is wrong.
    """
    queue = {
        "max_queued_requests": args.max_num_queued_reqs,
        "max_queued_tokens": args.max_num_queued_tokens,
    }
    return AccessSettings(
        api_keys=tuple(args.api_key),
        admin_api_keys=tuple(args.admin_api_key),
        api_key_file=args.api_key_file,
        limits=KeyLimits(
            requests_per_minute=args.key_requests_per_minute,
            tokens_per_minute=args.key_tokens_per_minute,
            max_concurrent_requests=args.key_max_concurrent_requests,
        ),
        queue_timeout=args.queue_timeout,
        request_timeout=args.request_timeout,
        separate_prefix_caches=args.separate_prefix_caches,
        **{name: value for name, value in queue.items() if value is not None},
    )
