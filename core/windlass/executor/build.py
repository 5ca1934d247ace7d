"""From settings to a model runner: the one place where engine, backend and executor meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from windlass.config import EngineConfig
from windlass.plugin import create_backend
from windlass.step import ModelRunner

if TYPE_CHECKING:
    from windlass.backend import Backend


def build_runner(config: EngineConfig) -> ModelRunner:
    """Select the backend and make its runner; nothing is loaded yet.

    Raises:
        BackendNotAvailableError: the backend that was asked for cannot be used here.
    """
    return runner_for(config, create_backend(config.backend))


def runner_for(config: EngineConfig, backend: Backend) -> ModelRunner:
    """The runner of the backend's own, or the core's torch runner on this backend."""
    runner = backend.model_runner(config)
    if runner is not None:
        return runner
    from windlass.executor.model_runner import TorchModelRunner

    return TorchModelRunner(config, backend)
