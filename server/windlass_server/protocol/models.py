"""`/v1/models`: what goes out."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType, field


class ModelStatus(msgspec.Struct):
    """What a model is doing: unloaded, loading, loaded, leaving or sleeping."""

    value: str = "loaded"


class Model(msgspec.Struct):
    """A name that requests may use; `max_model_len` (tokens) is there once it was loaded."""

    id: str
    created: int
    root: str
    max_model_len: int | UnsetType = UNSET
    status: ModelStatus = field(default_factory=ModelStatus)
    object: str = "model"
    owned_by: str = "windlass"


class ModelList(msgspec.Struct):
    """Every name that requests may use."""

    data: list[Model]
    object: str = "list"
