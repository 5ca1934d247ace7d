"""Sampling defaults that a model recommends in its generation_config.json."""

from __future__ import annotations

from typing import Any

import msgspec

from windlass.errors import ModelError, RequestError
from windlass.loader.location import resolve_model
from windlass.request import SamplingParams

_FILE = "generation_config.json"
_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load_generation_defaults(model: str, revision: str | None = None) -> dict[str, float | int]:
    """The fields of `SamplingParams` that the model sets; empty when it sets none.

    Raises:
        ModelError: the file is no JSON object, or a value is out of range.
    """
    path = resolve_model(model, revision, weights=False) / _FILE
    if not path.is_file():
        return {}
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a JSON object: {error}") from error
    defaults = {name: values[name] for name in _FIELDS if values.get(name) is not None}
    for name, value in defaults.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{path}: {name} must be a number, not {value!r}.")
    try:
        SamplingParams(**defaults)
    except RequestError as error:
        raise ModelError(f"{path}: {error.message}") from error
    return defaults
