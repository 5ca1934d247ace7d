"""The hooks that a plugin module may implement. Each is called for one plugin at a time."""

from __future__ import annotations

import pluggy

from windlass.plugin.spec import Availability, BackendSpec, OpProviders

hookspec = pluggy.HookspecMarker("windlass")
hookimpl = pluggy.HookimplMarker("windlass")


class WindlassHooks:
    """Hook specifications of the plugin contract, version 1."""

    @hookspec
    def windlass_backend(self) -> BackendSpec:  # type: ignore[empty-body]
        """Describe the backend. Must not import torch."""

    @hookspec
    def windlass_probe(self) -> Availability:  # type: ignore[empty-body]
        """Say whether the backend can be used here.

        Must not import torch and must not create a device context: read driver libraries,
        sysfs, package metadata.
        """

    @hookspec
    def windlass_op_providers(self, backend: str, arch: str) -> OpProviders:  # type: ignore[empty-body]
        """Offer op implementations for the backend that was selected."""
