"""Loading, unloading and sleep: what comes in and goes out."""

from __future__ import annotations

import msgspec

from windlass_server.protocol.fields import ModelBody


class LoadRequest(ModelBody):
    """Names the model to load or to unload."""


class Done(msgspec.Struct):
    """It was done."""

    success: bool = True


class Sleeping(msgspec.Struct):
    """Whether the model (each model, if none was named) sleeps."""

    is_sleeping: bool
