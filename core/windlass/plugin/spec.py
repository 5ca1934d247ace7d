"""What a plugin says about itself: plain data, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

API_VERSION: tuple[int, int] = (1, 0)
"""Version of the plugin contract: the major breaks, the minor only adds."""

BACKENDS_GROUP = "windlass.backends"
OPS_GROUP = "windlass.ops"


class Status(Enum):
    """Whether a backend can be used on this machine, and if not, whose turn it is.

    A probe gives any but DISABLED, which stands for a plugin that the settings exclude.
    """

    AVAILABLE = "available"
    NO_DEVICE = "no device"
    NOT_INSTALLED = "not installed"
    BROKEN = "broken"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"


@dataclass(frozen=True, kw_only=True)
class DeviceDescription:
    """One device that a probe found. `total_bytes` is its memory (0: unknown)."""

    index: int
    name: str
    arch: str = ""
    total_bytes: int = 0
    driver: str = ""
    uuid: str = ""
    numa_node: int | None = None
    unified: bool = False


@dataclass(frozen=True, kw_only=True)
class Availability:
    """A probe's answer: the reason in one sentence, the hint as something the reader can do."""

    status: Status
    reason: str = ""
    hint: str = ""
    devices: tuple[DeviceDescription, ...] = ()

    @classmethod
    def available(cls, *devices: DeviceDescription, reason: str = "") -> Availability:
        """The backend can be used with these devices."""
        return cls(status=Status.AVAILABLE, reason=reason, devices=devices)


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """How to reach a backend: read at discovery, before anything heavy is imported.

    `api` is the contract version it was built against. `target` is "module:factory"; the factory
    is called as `factory(spec, config, arch=..., op_providers=...)` with a
    `windlass.config.BackendConfig`, the architecture of the device in the probe's words and the
    op providers of all plugins, and returns a `windlass.backend.Backend`. `device_type` is
    torch's name for the device. "auto" takes the highest `priority` that is available (cpu 100,
    in-tree accelerators 500) and never one that is "experimental". `requires` are PEP 508
    strings, checked without importing. `offline` names, as "module:attribute", a
    `windlass.testing.offline.KernelTables`: the backend's kernels, to be compiled or interpreted on
    machines without its device (empty: none).
    """

    name: str
    target: str
    device_type: str
    priority: int
    api: tuple[int, int] = API_VERSION
    requires: tuple[str, ...] = ()
    stability: Literal["stable", "experimental"] = "stable"
    offline: str = ""


@dataclass(frozen=True, kw_only=True)
class OpProvider:
    """An implementation of one op for one backend; nothing is imported until it is chosen.

    `target` is "module:attr" of a callable with the op's parameters. `supports` is the same for
    a predicate with those parameters that returns `windlass.backend.Support` (empty: always).
    `arch` limits it to device architectures (empty: any).
    """

    op: str
    name: str
    target: str
    supports: str = ""
    priority: int = 0
    arch: frozenset[str] = frozenset()


OpProviders = Iterable[OpProvider]
