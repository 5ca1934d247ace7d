"""How busy a server is and what it is made of, in plain data."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from windlass import __version__
from windlass_server.protocol.server_info import Load, ModelLoad, ServedModelInfo, ServerInfo

if TYPE_CHECKING:
    from windlass_server.models.served_model import ServedModel
    from windlass_server.state import ServerState

_PACKAGES = ("torch", "transformers", "tokenizers", "fastapi", "starlette", "uvicorn", "triton")
_MAX_TEXT = 256
"""Characters of a setting; a longer one, such as a chat template, is told by its length."""


def load_of(state: ServerState) -> Load:
    """Return how busy the engines are now."""
    models = [_model_load(model) for model in state.models.models]
    running = sum(model.num_running_reqs for model in models)
    waiting = sum(model.num_waiting_reqs for model in models)
    usage = max(model.kv_cache_usage for model in models)
    return Load(running + waiting, running + waiting, running, waiting, usage, models)


def _model_load(model: ServedModel) -> ModelLoad:
    load = ModelLoad(model.settings.name, model.status)
    if model.engine is not None:
        stats = model.engine.stats()
        load.num_running_reqs = stats.num_running
        load.num_waiting_reqs = stats.num_waiting + model.metrics.calls_in_front()
        load.num_waiting_tokens = stats.num_waiting_tokens
        load.kv_cache_usage = stats.kv_cache_usage
    return load


def info_of(state: ServerState) -> ServerInfo:
    """Return versions, settings without secrets, and the facts of the engines."""
    models = [
        ServedModelInfo(
            model.settings.name,
            model.status,
            None if model.engine is None else model.engine.restarts,
            model.info,
        )
        for model in state.models.models
    ]
    return ServerInfo(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=_packages(),
        uptime_seconds=time.time() - state.created,
        settings=shown(state.settings),
        models=models,
    )


@cache
def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def shown(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return settings as JSON can hold them, without the fields that hide from `repr`."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: shown(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(key): shown(entry) for key, entry in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(str(entry) for entry in value)
    if isinstance(value, tuple | list):
        return [shown(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{len(text)} characters"
