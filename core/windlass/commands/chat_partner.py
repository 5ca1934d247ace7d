"""Who answers in a chat, and how fast the answer came."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

Message = dict[str, str]


@dataclass(slots=True)
class AnswerTimes:
    """Times of one answer, in seconds of a monotonic clock."""

    start: float = field(default_factory=time.perf_counter)
    first: float | None = None
    end: float | None = None
    tokens: int = 0

    def note(self, tokens: int) -> None:
        """Note that the answer now has this many tokens."""
        self.end = time.perf_counter()
        self.first = self.first or self.end
        self.tokens = max(self.tokens, tokens)

    def describe(self) -> str:
        """One line for people."""
        if self.first is None or self.end is None:
            return "no tokens"
        line = f"{self.tokens} tokens, first after {self.first - self.start:.3f} s"
        rest = self.end - self.first
        if self.tokens > 1 and rest > 0:
            line += f", then {(self.tokens - 1) / rest:.1f} tokens/s"
        return line


class ChatPartner(Protocol):
    """Answers conversations. Closing an answer early stops its generation."""

    name: str
    times: AnswerTimes

    def answer(self, messages: list[Message]) -> Generator[str]:
        """Yield the answer piece by piece; raises WindlassError."""
        ...

    def __enter__(self) -> Self:
        """Be ready."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give back what it holds."""
        ...
