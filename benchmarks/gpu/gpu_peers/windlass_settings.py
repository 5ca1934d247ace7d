"""The settings of a comparison as a configuration of Windlass."""

from __future__ import annotations

from gpu_peers.protocol import Settings
from windlass.config import (
    BackendConfig,
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
    check_config,
)


def engine_config(settings: Settings) -> EngineConfig:
    """Random weights on the device's backend.

    Raises:
        ConfigError: Windlass has no such setting.
    """
    return check_config(
        EngineConfig(
            model=ModelConfig(
                model=settings.model,
                dtype=settings.dtype,  # type: ignore[arg-type]  # checked below
                quantization=settings.quantization,  # type: ignore[arg-type]
                load_format="dummy",
                max_model_len=settings.max_model_len,
            ),
            cache=CacheConfig(
                memory_utilization=settings.memory,
                dtype=settings.kv_cache_dtype,  # type: ignore[arg-type]
            ),
            scheduler=SchedulerConfig(
                max_num_seqs=settings.max_num_seqs,
                max_num_batched_tokens=settings.batched_tokens,
            ),
            backend=BackendConfig(backend=settings.device, enforce_eager=settings.enforce_eager),
            # Kernels may be compiled in the first steps.
            step_timeout=300.0,
        )
    )
