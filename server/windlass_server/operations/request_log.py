"""A line per HTTP request, and one of what a request asks for; never a text unless it is wished.

Nothing that a client wrote stands in a line but the request id, which has a fixed alphabet, and in
the text format the path, escaped and cut.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windlass.errors import ConfigError
from windlass_server.operations.record import RequestRecord, current_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from windlass_server.access.caller import Caller

access_logger = logging.getLogger("windlass_server.access")
request_logger = logging.getLogger("windlass_server.requests")

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_MAX_PATH = 200
_MAX_PARAMETERS = 1024
"""Characters of a request's parameters in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Which lines are written.

    The access log leaves out `quiet_paths`. `requests` writes a line of the parameters of every
    request to a model, with the first `request_bytes` of its body.
    """

    quiet_paths: frozenset[str] = frozenset()
    requests: bool = False
    request_bytes: int = 0

    def __post_init__(self) -> None:
        for path in self.quiet_paths:
            if not path.startswith("/"):
                raise ConfigError(
                    f"--disable-access-log-for-endpoints: a path starts with '/', not {path!r}"
                )
        if self.request_bytes < 0:
            raise ConfigError(f"--log-request-bytes must be at least 0, not {self.request_bytes}")


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `LogSettings`."""
    group = parser.add_argument_group("request log")
    group.add_argument(
        "--disable-access-log-for-endpoints",
        default="",
        metavar="PATHS",
        help="paths that --access-log leaves out, as in /health,/metrics",
    )
    group.add_argument(
        "--enable-log-requests",
        action="store_true",
        help="log the parameters of every request to a model, without its texts",
    )
    group.add_argument(
        "--log-request-bytes",
        type=int,
        default=0,
        metavar="N",
        help="and so many bytes of its body, which hold what people write",
    )


def log_from_arguments(args: argparse.Namespace) -> LogSettings:
    """Return the settings of parsed flags.

    Raises:
        ConfigError: a value is wrong.
    """
    paths = args.disable_access_log_for_endpoints.split(",")
    return LogSettings(
        quiet_paths=frozenset(path.strip() for path in paths if path.strip()),
        requests=args.enable_log_requests or args.log_request_bytes > 0,
        request_bytes=args.log_request_bytes,
    )


def route_of(scope: Scope) -> str:
    """Return the pattern of the request's route, "unknown" where there is none."""
    return getattr(scope.get("route"), "path", "unknown")


def known_method(scope: Scope) -> str:
    """Return the method, "OTHER" for one that a client made up."""
    return scope["method"] if scope["method"] in METHODS else "OTHER"


def log_access(
    settings: LogSettings, scope: Scope, status: int, seconds: float, record: RequestRecord
) -> None:
    """Write the line of one request that has ended."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path in settings.quiet_paths:
        return
    shown = scope["path"].encode("unicode_escape", "replace").decode("ascii")[:_MAX_PATH]
    known: dict[str, Any] = {
        "request_id": record.request_id,
        "method": known_method(scope),
        "route": route_of(scope),
        "status": status,
        "seconds": round(seconds, 4),
        "model": record.model or None,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "key": _key_name(scope),
        "error": None if record.error is None else record.error.code or record.error.type,
        "client_left": record.left or None,
    }
    fields = {name: value for name, value in known.items() if value is not None}
    access_logger.info(
        "%s %s %d %.3fs %s",
        scope["method"],
        shown,
        status,
        seconds,
        record.request_id,
        extra={"fields": fields},
    )


def _key_name(scope: Scope) -> str | None:
    caller: Caller | None = scope["state"].get("caller")
    return None if caller is None else caller.name or None


def log_request(settings: LogSettings, scope: Scope, body: Mapping[str, Any], data: bytes) -> None:
    """Write what a request to a model asks for: `body` is what it set, `data` its bytes."""
    parameters = json.dumps({name: _shown(value) for name, value in body.items()})
    fields = {
        "request_id": current_record().request_id,
        "route": route_of(scope),
        "parameters": parameters[:_MAX_PARAMETERS],
    }
    text = "%s %s %s"
    values = [fields["request_id"], fields["route"], fields["parameters"]]
    if settings.request_bytes:
        fields["body"] = data[: settings.request_bytes].decode(errors="replace")
        text, values = f"{text} %s", [*values, fields["body"]]
    request_logger.info(text, *values, extra={"fields": fields})


def _shown(value: object) -> object:
    """Return numbers and switches as they are, and of all else only how much it is."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return f"{len(value)} characters"
    return f"{len(value)} entries" if isinstance(value, list | dict) else "set"
