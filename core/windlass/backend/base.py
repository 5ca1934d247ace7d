"""The backend object: everything the core knows about a device."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from windlass.backend.allocator import Allocator
from windlass.backend.attention import Attention
from windlass.backend.capabilities import Capabilities
from windlass.backend.collectives import Collectives
from windlass.backend.device import Device
from windlass.backend.kv_cache import KVLayout, KVSpec
from windlass.backend.layer import LayerParts, LayersFunction
from windlass.backend.ops import OpRegistry
from windlass.plugin.spec import BackendSpec

if TYPE_CHECKING:
    from windlass.config import EngineConfig
    from windlass.step import ModelRunner


class Backend(ABC):
    """A device and what runs on it; passed explicitly, several may live in one process.

    A backend sets every part, from `device` to `collectives`, and the core runs models on them. Or
    it sets `runs_models`, has `spec` and `capabilities` alone, and `model_runner` returns a runner
    of its own: hardware that torch does not drive.
    """

    runs_models: ClassVar[bool] = False

    spec: BackendSpec
    capabilities: Capabilities
    device: Device
    allocator: Allocator
    attention: Attention
    ops: OpRegistry
    collectives: Collectives

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """Layouts this backend can work with, the preferred one first."""
        del spec
        return (KVLayout(block_size=self.capabilities.preferred_block_size),)

    def model_runner(self, config: EngineConfig) -> ModelRunner | None:
        """A runner of the backend's own; None: the core's torch runner."""
        del config
        return None

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """All layers as one call, where the backend has that; None: the ops, one by one.

        Called once, when the weights are packed. `by_ops` runs the same layers op by op: a backend
        may hand it the steps that it does not fuse.
        """
        del layers, by_ops
        return None

    def warmup(self, *, weight_bytes: int) -> None:
        """Compile and tune now, so that the first request does not pay for it.

        Called once, on the thread that will run every step, for a model whose weights take
        `weight_bytes`.
        """

    def close(self) -> None:
        """Give back what the backend holds."""
