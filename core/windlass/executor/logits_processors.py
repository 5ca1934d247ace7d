"""Plugins that change the logits of the requests that ask for them.

An entry point of the group `windlass.logits_processors` is a factory: it gets what the request
gave under the plugin's name in `extra_args`, and the number of logits, and returns a callable.
Only plugins that the engine's setting `logits_processors` names are imported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol

import torch

from windlass.errors import ConfigError, RequestError

logger = logging.getLogger(__name__)

GROUP = "windlass.logits_processors"
_MAX_REASON = 200
"""Characters of a plugin's own sentence that a client is told."""


class LogitsProcessor(Protocol):
    """Changes the logits of one request; called once for each of its output tokens."""

    def __call__(self, output_token_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Return new logits float32 `[V]`, from those and from the tokens written so far."""
        ...


class LogitsProcessorFactory(Protocol):
    """Makes a processor for one request."""

    def __call__(self, value: Any, vocab_size: int) -> LogitsProcessor:  # noqa: ANN401
        """Return the processor; whatever it raises refuses the request.

        The client is told what a ValueError or TypeError says. Called more than once for a
        request: before it is scheduled, and whenever it begins to run.
        """
        ...


class LogitsProcessors:
    """The plugins that were named.

    Raises:
        ConfigError: one is not installed or cannot be imported.
    """

    def __init__(self, names: Sequence[str], vocab_size: int) -> None:
        self._vocab_size = vocab_size
        found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
        self._factories = {name: _load(name, found) for name in names}

    def make(self, asked: Mapping[str, Any]) -> list[LogitsProcessor]:
        """Make the processors of a request, in the order in which the plugins were named.

        Raises:
            RequestError: one refuses its argument, or is not known.
        """
        unknown = sorted(asked.keys() - self._factories.keys())
        if unknown:
            raise RequestError(f"There is no logits processor {unknown[0]!r}.", param="extra_args")
        return [
            self._make(name, factory, asked[name])
            for name, factory in self._factories.items()
            if name in asked
        ]

    def _make(self, name: str, factory: LogitsProcessorFactory, value: object) -> LogitsProcessor:
        try:
            return factory(value, self._vocab_size)
        except Exception as error:
            raise RequestError(
                f"The logits processor {name!r} refuses its argument{_reason(name, error)}.",
                param="extra_args",
            ) from error


def _reason(name: str, error: Exception) -> str:
    if not isinstance(error, ValueError | TypeError):
        # It may be a fault of the plugin's, and name what is none of the client's business.
        logger.warning("The logits processor %r failed on its argument", name, exc_info=error)
        return ""
    sentence = " ".join(str(error).split())[:_MAX_REASON].rstrip(".")
    return f": {sentence}" if sentence else ""


def _load(name: str, found: Mapping[str, metadata.EntryPoint]) -> LogitsProcessorFactory:
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise ConfigError(f"logits_processors: {name!r} is not installed; there are: {known}")
    try:
        factory: LogitsProcessorFactory = found[name].load()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"logits_processors: {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return factory
