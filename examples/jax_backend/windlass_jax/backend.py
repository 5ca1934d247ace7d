"""Imported when the backend was selected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch

from windlass.backend import Backend, BackendConfig, Capabilities
from windlass.plugin import BackendSpec, OpProvider

if TYPE_CHECKING:
    from windlass.config import EngineConfig
    from windlass_jax.runner import JaxModelRunner


class JaxBackend(Backend):
    """No parts, only a runner. torch is named here for the words of `Capabilities`, never used."""

    runs_models: ClassVar[bool] = True

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        del config, arch, op_providers
        self.spec = spec
        self.capabilities = Capabilities(
            dtypes=(torch.float32, torch.bfloat16, torch.float16),
            attention=frozenset({"gqa", "window"}),
            memory_utilization=0.5,
            default_kv_cache_bytes=4 << 30,
            unified_memory=True,
            asynchronous=True,
        )

    def model_runner(self, config: EngineConfig) -> JaxModelRunner:
        """The runner for one engine."""
        from windlass_jax.runner import JaxModelRunner

        return JaxModelRunner(config, self.spec.name, self.capabilities)
