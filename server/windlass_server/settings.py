"""Every setting of the HTTP server, frozen; the engine's settings are `windlass.config`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from windlass.errors import ConfigError
from windlass_server import page
from windlass_server.access.settings import AccessSettings
from windlass_server.batches.settings import BatchSettings
from windlass_server.models.settings import ModelSettings, SwapSettings
from windlass_server.operations.settings import OperationsSettings
from windlass_server.processes.settings import ProcessSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens, whom it lets in and how long it waits.

    The first of `models` is that of requests that name none; `swap` says when others are loaded.
    `access` are keys, their limits and deadlines. `ui` serves the page at `/`. Durations are in
    seconds, sizes in bytes. A request may have `max_messages` messages (or items) and `max_tools`
    tools, whose JSON has at most `max_tool_bytes`; rendering them takes at most `template_timeout`.
    Of the Responses API at most `max_stored_responses` are kept, `max_stored_response_bytes`
    together, each for `response_ttl`; `max_background_responses` run at a time.
    """

    models: tuple[ModelSettings, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    root_path: str = ""
    access: AccessSettings = field(default_factory=AccessSettings)
    public_metrics: bool = False
    ui: bool = True
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * MIB
    strict_params: bool = False
    trust_request_chat_template: bool = False
    template_timeout: float = 5.0
    max_messages: int = 8192
    max_tools: int = 512
    max_tool_bytes: int = MIB
    max_stored_responses: int = 1000
    max_stored_response_bytes: int = 64 * MIB
    max_background_responses: int = 64
    response_ttl: float = 24 * 3600.0
    shutdown_timeout: float = 30.0
    keep_alive_interval: float = 15.0
    header_timeout: float = 30.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    log_stats: bool = True
    access_log: bool = False
    log_format: Literal["text", "json"] = "text"
    operations: OperationsSettings = field(default_factory=OperationsSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    swap: SwapSettings = field(default_factory=SwapSettings)
    processes: ProcessSettings = field(default_factory=ProcessSettings)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models must hold at least one model")
        preloaded = sum(model.preload for model in self.models)
        if preloaded > self.swap.max_loaded:
            raise ConfigError(
                f"{preloaded} models are to be loaded at the start, but --max-loaded-models is "
                f"{self.swap.max_loaded}"
            )
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        if self.max_body_bytes < 1:
            raise ConfigError(f"max_body_bytes must be at least 1, not {self.max_body_bytes}")
        self._check_chat_limits()
        if self.shutdown_timeout < 0:
            raise ConfigError(f"shutdown_timeout must be at least 0, not {self.shutdown_timeout}")
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigError(f"root_path must start with '/', not {self.root_path!r}")

    def _check_chat_limits(self) -> None:
        for name in ("max_messages", "max_tools", "max_tool_bytes", "template_timeout"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("stored_responses", "stored_response_bytes", "background_responses"):
            if getattr(self, f"max_{name}") < 0:
                raise ConfigError(f"max_{name} must be at least 0")

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach the server."""
        return self.uds is not None or is_loopback(self.host)

    @property
    def model_name(self) -> str:
        """The name of the default model."""
        return self.models[0].name

    @property
    def public_paths(self) -> frozenset[str]:
        """The paths that need no key."""
        open_paths = ["/health", "/ready", "/ping"]
        if self.public_metrics:
            open_paths += ["/metrics", "/version"]
        if self.ui:
            open_paths += page.paths()
        return frozenset(self.root_path.rstrip("/") + path for path in open_paths)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this host itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
