"""Texts or token ids, one or several: the forms in which prompts and inputs come."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len

from windlass_server.body import UNION_TAG
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, TEXTS, one_of

TOKENS, TOKEN_LISTS = UNION_TAG + "tokens", UNION_TAG + "token_lists"
_LIST_TAGS: dict[type, str] = {str: TEXTS, int: TOKENS, list: TOKEN_LISTS}

TokenIds = Annotated[list[int], FIRST_FAULT, Len(1)]
"""The tokens of one prompt."""


def _kind(value: object) -> str | None:
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list):
        return _LIST_TAGS.get(type(value[0])) if value else TEXTS
    return None


TEXTS_OR_TOKENS = one_of(_kind, "a string, an array of strings, token ids or an array of token ids")
"""The discriminator of such a union, by the tags `TEXT`, `TEXTS`, `TOKENS` and `TOKEN_LISTS`."""


def one_by_one(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """Return the prompts one by one, whatever form they came in."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [item for item in prompt if not isinstance(item, int)]
