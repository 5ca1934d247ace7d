"""A rate limit that fills up steadily, and may be in debt for what was only known afterwards."""

from __future__ import annotations

from collections.abc import Callable

_ROUNDING = 1e-6
"""A lack that only comes from adding fractions."""


class TokenBucket:
    """Holds at most `per_minute` and fills at that rate; belongs to one event loop.

    `clock` is in seconds and never goes back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    def _fill(self) -> float:
        now = self._clock()
        gained = (now - self._filled_at) * self.per_minute / 60
        self._filled_at = now
        self._level = min(float(self.per_minute), self._level + gained)
        return self._level

    def wait_for(self, amount: int) -> float:
        """Return the seconds until `amount` can be taken.

        What is more than the bucket holds can be taken from a full one, which is in debt then:
        a large request waits longer, but is not refused for ever.
        """
        lacking = min(amount, self.per_minute) - self._fill()
        return lacking * 60 / self.per_minute if lacking > _ROUNDING else 0.0

    def take(self, amount: int) -> None:
        """Take `amount`; a negative one is given back."""
        self._level = min(float(self.per_minute), self._fill() - amount)

    @property
    def remaining(self) -> int:
        """What is there now, in whole units."""
        return max(0, int(self._fill() + _ROUNDING))

    @property
    def seconds_to_full(self) -> float:
        """How long until it is full if nothing more is taken."""
        return (self.per_minute - self._fill()) * 60 / self.per_minute
