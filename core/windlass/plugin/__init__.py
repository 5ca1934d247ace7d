"""What a hardware plugin implements before torch is imported, and how Windlass finds it.

A plugin module imports from here, implements the hooks with `hookimpl` and stands in the
entry-point group `windlass.backends` of its distribution.
"""

from windlass.plugin.discovery import FoundPlugin, PluginSource, discover
from windlass.plugin.examine import Findings
from windlass.plugin.hookspecs import hookimpl
from windlass.plugin.selection import construct, create_backend, select
from windlass.plugin.spec import (
    API_VERSION,
    BACKENDS_GROUP,
    OPS_GROUP,
    Availability,
    BackendSpec,
    DeviceDescription,
    OpProvider,
    Status,
)
from windlass.plugin.torch_build import TorchBuild, installed_torch

__all__ = [
    "API_VERSION",
    "Availability",
    "BACKENDS_GROUP",
    "BackendSpec",
    "DeviceDescription",
    "Findings",
    "FoundPlugin",
    "OPS_GROUP",
    "OpProvider",
    "PluginSource",
    "Status",
    "TorchBuild",
    "construct",
    "create_backend",
    "discover",
    "hookimpl",
    "installed_torch",
    "select",
]
