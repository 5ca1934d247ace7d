"""The refusals of structured output."""

from __future__ import annotations

from typing import Literal

from windlass.errors import RequestError

Code = Literal[
    "invalid_json_schema",
    "unsupported_json_schema",
    "invalid_regex",
    "invalid_grammar",
    "grammar_too_complex",
]


class ConstraintError(RequestError):
    """A constraint that is broken, or that cannot be guaranteed; the text names the part."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message, param="structured_outputs", code=code)
