"""What a server knows of each of its models before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from windlass.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The names of a model in the API, and how a conversation with it is written.

    The first of `names` is the one that labels metrics. What is None is found in the model's own
    files. With `priority_scheduling` its requests may have priorities. A model with `preload` is
    there before the server says that it is ready.
    """

    names: tuple[str, ...]
    chat_template: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    priority_scheduling: bool = False
    preload: bool = True

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("a model must have at least one name")

    @property
    def name(self) -> str:
        """The name that labels metrics and log lines."""
        return self.names[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapSettings:
    """How many models are in memory at a time, and for how long.

    `max_loaded` are loaded at a time: for another one, the one that was not used for longest has
    to go. A model without a request for `sleep_after` seconds gives its memory back. At most
    `max_waiting` requests wait for models to load. A model that could not be loaded is tried again
    after `retry_after` seconds at the earliest.
    """

    max_loaded: int = 1
    sleep_after: float | None = None
    max_waiting: int = 1024
    retry_after: float = 10.0

    def __post_init__(self) -> None:
        if self.max_loaded < 1:
            raise ConfigError(f"max_loaded must be at least 1, not {self.max_loaded}")
        if self.sleep_after is not None and not self.sleep_after > 0:
            raise ConfigError(f"sleep_after must be above 0, not {self.sleep_after}")
        if self.max_waiting < 1:
            raise ConfigError(f"max_waiting must be at least 1, not {self.max_waiting}")
