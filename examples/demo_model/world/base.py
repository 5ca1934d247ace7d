"""The types and small helpers that all parts of the corpus share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Turn = tuple[str, str]
"""One question and its answer."""


@dataclass(frozen=True)
class Document:
    """One training text: either a conversation or plain text, never both."""

    turns: tuple[Turn, ...] = ()
    system: str = ""
    text: str = ""


def fill(rng: Random, options: Sequence[str], **slots: str) -> str:
    """Choose one of the options and fill its slots."""
    return rng.choice(options).format(**slots)


def article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    """Make the first letter a capital and leave the others alone."""
    return text[:1].upper() + text[1:]


def split(text: str) -> tuple[str, ...]:
    """Make a tuple of the words of a text."""
    return tuple(text.split())
