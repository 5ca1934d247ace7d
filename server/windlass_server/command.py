"""`windlass serve`: the flags of the server, and the way from them to a running one.

Imported to show help, so what is heavy is imported in `run`.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from windlass.arguments import add_engine_arguments, engine_config
from windlass.errors import ConfigError
from windlass_server.access import settings as access
from windlass_server.batches import settings as batches
from windlass_server.models import arguments as models
from windlass_server.operations import settings as operations
from windlass_server.processes import settings as processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from windlass.config import EngineConfig
    from windlass_server.engine import Engine
    from windlass_server.settings import ServerSettings

HELP = "serve a model over HTTP with OpenAI's API"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass serve`, and those of the engine."""
    _add_listen_arguments(parser)
    access.add_arguments(parser)
    _add_access_arguments(parser)
    _add_api_arguments(parser)
    models.add_model_arguments(parser)
    models.add_swap_arguments(parser)
    _add_chat_limits(parser)
    _add_log_arguments(parser)
    batches.add_arguments(parser)
    processes.add_arguments(parser)
    operations.add_arguments(parser)
    add_engine_arguments(parser)


def _add_listen_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 takes any free one"
    )
    group.add_argument("--uds", metavar="PATH", help="listen on a Unix socket instead")
    group.add_argument("--root-path", default="", help="path under which a proxy serves this")
    group.add_argument(
        "--no-ui", dest="ui", action="store_false", help="do not serve the web page at /"
    )
    group.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long running requests may go on after SIGTERM",
    )


def _add_access_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access")
    group.add_argument(
        "--public-metrics", action="store_true", help="/metrics and /version need no key"
    )
    group.add_argument(
        "--allowed-origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web origins that browsers may call from, * for all (default: none)",
    )
    group.add_argument(
        "--max-body-bytes",
        type=int,
        default=32 * 1024 * 1024,
        metavar="BYTES",
        help="largest request body",
    )


def _add_api_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("API")
    group.add_argument(
        "--trust-request-chat-template",
        action="store_true",
        help="render chat templates that requests bring, in a process of their own",
    )
    group.add_argument(
        "--template-timeout",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long a chat template may take",
    )
    group.add_argument(
        "--strict-params", action="store_true", help="refuse parameters that are unknown"
    )


def _add_chat_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits of a conversation")
    for flag, default, text in (
        ("--max-messages", 8192, "messages of a request"),
        ("--max-tools", 512, "tools of a request"),
        ("--max-tool-bytes", 1024 * 1024, "bytes of all tools of a request as JSON"),
        ("--max-stored-responses", 1000, "responses kept for later requests; 0 keeps none"),
        ("--max-stored-response-bytes", 64 * 1024 * 1024, "bytes of all kept responses"),
        ("--max-background-responses", 64, "responses that run in the background at a time"),
    ):
        group.add_argument(flag, type=int, default=default, metavar="N", help=text)
    group.add_argument(
        "--response-ttl",
        type=float,
        default=24 * 3600.0,
        metavar="SECONDS",
        help="how long a response is kept",
    )


def _add_log_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("log")
    group.add_argument("--access-log", action="store_true", help="log a line per request")
    group.add_argument(
        "--disable-log-stats", action="store_true", help="no line about throughput every 10 s"
    )
    group.add_argument("--log-format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal.

    Raises:
        WindlassError: a setting is wrong, the address is taken, or the model cannot be loaded.
    """
    entries = models.each_model(args)
    configs = [engine_config(entry) for entry in entries]
    settings = server_settings(args, entries)

    if args.model is None and args.models is None:
        from windlass_server.console import DEMO_NOTICE

        print(DEMO_NOTICE, flush=True)
    if settings.processes.api_server_count > 1:
        from windlass_server.processes.supervisor import supervise

        return supervise(settings, configs[0])
    from windlass_server.lifecycle import serve

    return serve(settings, *map(_starter, configs))


def _starter(config: EngineConfig) -> Callable[[Callable[[str, float], None]], Awaitable[Engine]]:
    async def start(progress: Callable[[str, float], None]) -> Engine:
        from windlass.async_engine import AsyncEngine

        return await AsyncEngine.start(config, progress)

    return start


def server_settings(
    args: argparse.Namespace, entries: Sequence[argparse.Namespace]
) -> ServerSettings:
    """Make the server's settings from parsed flags; `entries` has those of each model.

    Raises:
        ConfigError: a value is wrong, or a file cannot be read.
    """
    from windlass_server.settings import ServerSettings

    return ServerSettings(
        models=tuple(map(models.model_settings, entries)),
        swap=models.swap_settings(args),
        host=args.host,
        port=args.port,
        uds=args.uds,
        root_path=args.root_path,
        access=access.from_arguments(args),
        public_metrics=args.public_metrics,
        ui=args.ui,
        allowed_origins=_origins(args.allowed_origins),
        max_body_bytes=args.max_body_bytes,
        strict_params=args.strict_params,
        trust_request_chat_template=args.trust_request_chat_template,
        template_timeout=args.template_timeout,
        max_messages=args.max_messages,
        max_tools=args.max_tools,
        max_tool_bytes=args.max_tool_bytes,
        max_stored_responses=args.max_stored_responses,
        max_stored_response_bytes=args.max_stored_response_bytes,
        max_background_responses=args.max_background_responses,
        response_ttl=args.response_ttl,
        shutdown_timeout=args.shutdown_timeout,
        log_stats=not args.disable_log_stats,
        access_log=args.access_log,
        log_format=args.log_format,
        operations=operations.from_arguments(args),
        batches=batches.from_arguments(args),
        processes=processes.from_arguments(args),
    )


def _origins(words: list[str]) -> tuple[str, ...]:
    """Read origins as words, or as one JSON array, which is vLLM's form."""
    if len(words) != 1 or not words[0].startswith("["):
        return tuple(words)
    try:
        origins = json.loads(words[0])
    except json.JSONDecodeError as exc:
        raise ConfigError(f"--allowed-origins is not valid JSON: {exc}") from None
    if not all(isinstance(origin, str) for origin in origins):
        raise ConfigError("--allowed-origins must be strings")
    return tuple(origins)
