"""Which engine a loaded model needs."""

from __future__ import annotations

from typing import cast

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.core import EngineCore
from windlass.engine.pooling_core import PoolingCore
from windlass.pooling import PoolingRunner
from windlass.step import ModelRunner


def make_engine(
    config: EngineConfig, info: ModelInfo, runner: ModelRunner | PoolingRunner
) -> EngineCore | PoolingCore:
    """Return the engine that drives `runner`, which has loaded the model of `info`."""
    if info.pooling is not None:
        return PoolingCore(config, info, cast(PoolingRunner, runner))
    return EngineCore(config, info, cast(ModelRunner, runner))
