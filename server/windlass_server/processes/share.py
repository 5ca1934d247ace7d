"""What each of several API processes gets of the settings of the whole server."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from windlass.config import EngineConfig
from windlass.errors import ConfigError
from windlass_server.access.control import keys_of
from windlass_server.settings import ServerSettings

KEEPER = 0
"""The process that has the files and batches, and answers what only one can."""


def settings_of(settings: ServerSettings, index: int) -> ServerSettings:
    """Return the settings of an API process: what bounds memory or load is divided."""
    count = settings.processes.api_server_count
    access = settings.access
    return replace(
        settings,
        access=replace(
            access,
            max_queued_requests=_part(access.max_queued_requests, count),
            max_queued_tokens=_part(access.max_queued_tokens, count),
        ),
        max_stored_responses=_part(settings.max_stored_responses, count),
        max_stored_response_bytes=_part(settings.max_stored_response_bytes, count),
        max_background_responses=_part(settings.max_background_responses, count),
        batches=settings.batches if index == KEEPER else replace(settings.batches, directory=None),
    )


def config_of(config: EngineConfig, count: int) -> EngineConfig:
    """Return the engine's config as one of `count` API processes sees it: its share of the queue.

    Only an API process reads these bounds; the engine itself has those of the whole.
    """
    whole = config.scheduler
    scheduler = structs.replace(
        whole,
        max_num_seqs=_part(whole.max_num_seqs, count),
        max_queued_requests=_part(whole.max_queued_requests, count),
        max_queued_tokens=_part(whole.max_queued_tokens, count),
    )
    return structs.replace(config, scheduler=scheduler)


def _part(whole: int, count: int) -> int:
    """Divide, rounding up: 0 stays 0, and nothing else becomes 0."""
    return -(-whole // count)


def require_shareable(settings: ServerSettings) -> None:
    """Refuse settings that several API processes cannot keep to, each knowing only its own calls.

    Raises:
        ConfigError: names both settings, or a key or the key file is wrong.
    """
    count = settings.processes.api_server_count
    keys_of(settings.access, count)
    for given, flag, reason in (
        (len(settings.models) > 1, "--models", "each process would load and unload them"),
        (settings.swap.sleep_after is not None, "--sleep-after", "none knows when others are idle"),
    ):
        if given:
            raise ConfigError(f"--api-server-count {count} excludes {flag}: {reason}")
