"""Windlass: LLM inference and serving on any hardware.

The public names are imported when they are first used, so that `import windlass` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from windlass._version import __version__

if TYPE_CHECKING:
    from windlass.async_engine import AsyncEngine
    from windlass.config import EngineConfig
    from windlass.llm import LLM
    from windlass.request import CompletionOutput, RequestOutput, SamplingParams, StructuredOutputs

_MODULES = {
    "AsyncEngine": "windlass.async_engine",
    "CompletionOutput": "windlass.request",
    "EngineConfig": "windlass.config",
    "LLM": "windlass.llm",
    "RequestOutput": "windlass.request",
    "SamplingParams": "windlass.request",
    "StructuredOutputs": "windlass.request",
}

__all__ = [
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "LLM",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputs",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'windlass' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
