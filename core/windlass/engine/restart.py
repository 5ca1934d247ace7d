"""How often, and how soon, a process that died is replaced."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How often a dead process is replaced. Delays and `window` in seconds.

    More than `max_deaths` within `window` and it stays down.
    """

    first_delay: float = 0.5
    max_delay: float = 10.0
    max_deaths: int = 5
    window: float = 600.0

    def delay(self, deaths: int) -> float:
        """Return how long to wait after this many deaths within the window."""
        return float(min(self.max_delay, self.first_delay * 2 ** (deaths - 1)))


class Deaths:
    """The recent deaths of one process and its successors."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._times: deque[float] = deque()

    def note(self) -> float | None:
        """Note one more; returns the seconds until a successor may start, None if none may."""
        now = time.monotonic()
        self._times.append(now)
        while now - self._times[0] > self._policy.window:
            self._times.popleft()
        if len(self._times) > self._policy.max_deaths:
            return None
        return self._policy.delay(len(self._times))
