"""The shape of one fact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A thing to know: the names it goes by, questions of its own, and its answers."""

    subjects: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    weight: float = 1.0
