"""From settings to a model runner: the one place where engine, backend and executor meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from windlass.config import EngineConfig
from windlass.errors import ModelError, UnsupportedError
from windlass.loader.location import resolve_model
from windlass.loader.pooling import is_pooling_model
from windlass.plugin import create_backend
from windlass.pooling import PoolingRunner
from windlass.step import ModelRunner

if TYPE_CHECKING:
    from windlass.backend import Backend


def build_runner(config: EngineConfig) -> ModelRunner | PoolingRunner:
    """Select the backend and make its runner; nothing is loaded yet.

    Raises:
        BackendNotAvailableError: the backend that was asked for cannot be used here.
        UnsupportedError: the model embeds or scores, and torch does not drive the backend.
    """
    backend = create_backend(config.backend)
    return pooling_runner_for(config, backend) if pools(config) else runner_for(config, backend)


def pools(config: EngineConfig) -> bool:
    """Whether the model embeds or scores; False where it cannot be found, which its load tells."""
    if config.pooling.runner == "generate":
        return False
    try:
        folder = resolve_model(config.model.model, config.model.revision, weights=False)
        return is_pooling_model(folder, config.pooling)
    except ModelError:
        return False


def runner_for(config: EngineConfig, backend: Backend) -> ModelRunner:
    """The runner of the backend's own, or the core's torch runner on this backend."""
    runner = backend.model_runner(config)
    if runner is not None:
        return runner
    from windlass.executor.model_runner import TorchModelRunner

    return TorchModelRunner(config, backend)


def pooling_runner_for(config: EngineConfig, backend: Backend) -> PoolingRunner:
    """The runner for embeddings and scores on a backend that torch drives.

    Raises:
        UnsupportedError: the backend runs models itself.
    """
    if backend.runs_models:
        raise UnsupportedError(
            f"backend {backend.spec.name!r} generates text: models that embed or score need one "
            "that torch drives"
        )
    from windlass.executor.pooling_runner import TorchPoolingRunner

    return TorchPoolingRunner(config, backend)
