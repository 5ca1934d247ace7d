"""`/v1/models`: what goes out."""

from __future__ import annotations

import msgspec


class Model(msgspec.Struct):
    """A name that requests may use; `max_model_len` is in tokens."""

    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "windlass"


class ModelList(msgspec.Struct):
    """Every name that requests may use."""

    data: list[Model]
    object: str = "list"
