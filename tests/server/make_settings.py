"""Settings of a server with one model, for tests."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from windlass_server.access.settings import AccessSettings
from windlass_server.models.settings import ModelSettings
from windlass_server.settings import ServerSettings


def make_settings(**settings: Any) -> ServerSettings:
    """Settings of a server with one model; fields of `ModelSettings` and `AccessSettings` too."""

    def taken(kind: type[ModelSettings] | type[AccessSettings]) -> dict[str, Any]:
        names = {field.name for field in fields(kind)} & settings.keys()
        return {name: settings.pop(name) for name in names}

    model = ModelSettings(**{"names": ("fake-model",), **taken(ModelSettings)})
    access = taken(AccessSettings)
    if access:
        settings["access"] = AccessSettings(**access)
    return ServerSettings(models=(model,), **settings)
