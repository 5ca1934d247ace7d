"""Finds the first stop string in a text that comes in parts (Aho and Corasick, 1975)."""

from __future__ import annotations

from collections import deque
from functools import lru_cache


class StopStrings:
    """The automaton of a set of stop strings, shared by all requests that have the same set.

    A state is the longest suffix of the text so far that begins a stop string; state 0 is none.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self._depth = [0]
        self._match: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._fallback.append(0)
                self._depth.append(self._depth[state] + 1)
                self._match.append(None)
            state = self._next[state][char]
        self._match[state] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for char, following in self._next[state].items():
                self._fallback[following] = self.advance(self._fallback[state], char)
                queue.append(following)
            if self._match[state] is None:
                self._match[state] = self._match[self._fallback[state]]

    def advance(self, state: int, char: str) -> int:
        """The state after one more character; amortised O(1)."""
        while state and char not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(char, 0)

    def absent(self, text: str) -> bool:
        """Whether no character of `text` begins a stop string."""
        return self._next[0].keys().isdisjoint(text)

    def held(self, state: int) -> int:
        """How many characters at the end of the text may begin a stop string."""
        return self._depth[state]

    def match(self, state: int) -> str | None:
        """The longest stop string that ends here, if one does."""
        return self._match[state]


@lru_cache(maxsize=256)
def compile_stop_strings(stops: tuple[str, ...]) -> StopStrings:
    """The automaton for these stop strings, from a cache."""
    return StopStrings(stops)
