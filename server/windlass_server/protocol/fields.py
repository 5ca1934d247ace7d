"""The pydantic types and the base that all request bodies share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)
from pydantic.types import FailFast

from windlass_server.body import UNION_TAG


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral), Field(ge=-(2**63), le=2**63 - 1)]
"""A 64-bit integer; JSON's 16.0 is one."""


class StopAtFirstFault(FailFast):
    """Bounds the faults that are found in an array; hashable, so that it fits into a union."""

    __hash__ = object.__hash__


FIRST_FAULT = StopAtFirstFault()

TEXT, TEXTS = UNION_TAG + "text", UNION_TAG + "texts"


def one_of(kind: Callable[[object], str | None], expected: str) -> Discriminator:
    """Return a discriminator of a union by `kind`; the error says what is `expected`."""
    return Discriminator(
        kind, custom_error_type="invalid_type", custom_error_message=f"must be {expected}"
    )


def string_or(list_tag: str, expected: str) -> Discriminator:
    """Return a discriminator between a string and an array."""
    kinds: dict[type, str] = {str: TEXT, list: list_tag}
    return one_of(lambda value: kinds.get(type(value)), expected)


StringOrStrings = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[str], FIRST_FAULT, Tag(TEXTS)],
    string_or(TEXTS, "a string or an array of strings"),
]


class Body(BaseModel):
    """Base of every object in a request: no coercion, no NaN, unknown keys are kept apart."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, frozen=True, protected_namespaces=()
    )


class ModelBody(Body):
    """Base of every body that names the model it is for.

    `timeout` is how many seconds the answer may take; no API that this follows has such a field.
    """

    model: str
    timeout: Annotated[float, Field(gt=0)] | None = None
