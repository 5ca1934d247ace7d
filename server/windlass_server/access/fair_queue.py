"""Callers take turns on one engine: requests wait in front of it, one line per caller.

Virtual token counters, after Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024:
each caller has a counter of the tokens that it was served, divided by its weight. While the engine
has room, the request that came first of the caller with the lowest counter goes to it. A caller
that had nothing waiting begins where the others are, so that it can neither save up service nor be
made to pay for what it used alone.

The tokens of a running request are read from its meter whenever a choice is made, so that nothing
has to be done for each token.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from windlass.errors import QueueFullError
from windlass_server.access.caller import Caller
from windlass_server.access.meter import Meter

OUTPUT_WEIGHT = 2
"""What an output token costs, in prompt tokens; the paper's choice."""


def capacity_of(max_num_seqs: int, max_queued_requests: int) -> int:
    """Return how many sequences may be in an engine at a time.

    A few more than it runs, so that it never waits for the next one; no more than it would queue.
    """
    slack = max(1, max_num_seqs // 8)
    return max_num_seqs + (min(slack, max_queued_requests) if max_queued_requests else slack)


class _Line:
    """The requests of one caller: those that wait, oldest first, and those that run."""

    def __init__(self) -> None:
        self.counter = 0.0
        self.weight = 1.0
        self.waiting: OrderedDict[Place, asyncio.Future[None]] = OrderedDict()
        self.waiting_tokens = 0
        self.running: set[Place] = set()

    def charge(self) -> float:
        """Bring the counter up to date and return it."""
        for place in self.running:
            self._charge(place)
        return self.counter

    def _charge(self, place: Place) -> None:
        meter = place.meter
        cost = meter.prompt_tokens + OUTPUT_WEIGHT * meter.completion_tokens
        self.counter += (cost - place.charged) / self.weight
        place.charged = cost

    def start(self, place: Place) -> None:
        """Let a request run; its prompt is charged at once."""
        self.running.add(place)
        self._charge(place)

    def end(self, place: Place) -> None:
        """Charge what a request has used, and forget it."""
        self._charge(place)
        self.running.remove(place)


class Place:
    """One API call in the queue or in the engine; `meter` has its tokens."""

    __slots__ = ("charged", "line", "meter", "prompt_tokens", "sequences")

    def __init__(self, line: _Line, meter: Meter, sequences: int) -> None:
        self.line = line
        self.meter = meter
        self.sequences = sequences
        self.prompt_tokens = meter.prompt_tokens
        self.charged = 0


class FairQueue:
    """Lets at most about `capacity` sequences into one engine at a time.

    With fewer than two callers everything passes at once. Of each caller at most `max_waiting`
    calls and `max_waiting_tokens` tokens of prompts wait; 0 is no bound. Belongs to one event loop.
    """

    def __init__(self, capacity: int, *, max_waiting: int = 0, max_waiting_tokens: int = 0) -> None:
        self.capacity = capacity
        self.in_flight = 0
        self.waiting = 0
        self._max_waiting = max_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._enabled = False
        self._lines: dict[str, _Line] = {}
        self._last_to_wait: _Line | None = None

    def share_between(self, callers: Sequence[Caller]) -> None:
        """Hold requests back as long as there are several callers; forget all others."""
        self._enabled = len(callers) > 1
        known = {caller.owner for caller in callers}
        self._lines = {
            owner: line
            for owner, line in self._lines.items()
            if owner in known or line.waiting or line.running
        }
        self._release()

    def counter(self, caller: Caller) -> float:
        """Return the tokens that were served to a caller by now, divided by its weight."""
        line = self._lines.get(caller.owner)
        return line.charge() if line is not None else 0.0

    def enter(
        self, caller: Caller, meter: Meter, sequences: int
    ) -> tuple[Place, asyncio.Future[None] | None]:
        """Return the call's place, and what it has to wait for before it may run, if anything.

        `meter` has the tokens of its prompts. Whoever waits must `leave` in the end, in any case.

        Raises:
            QueueFullError: too many of this caller wait.
        """
        line = self._lines.get(caller.owner)
        if line is None:
            line = self._lines[caller.owner] = _Line()
        self._reweigh(line, caller.weight)
        place = Place(line, meter, sequences)
        if self._enabled and not line.waiting:
            self._lift(line)
        if not self._enabled or (not self.waiting and self.in_flight < self.capacity):
            self._last_to_wait = line
            self._start(place)
            return place, None
        self._check_bounds(line, meter.prompt_tokens)
        future = asyncio.get_running_loop().create_future()
        line.waiting[place] = future
        line.waiting_tokens += place.prompt_tokens
        self.waiting += 1
        return place, future

    def leave(self, place: Place) -> None:
        """End a call, whether it has run, waits, or nobody waits for it any more."""
        line = place.line
        if place in line.running:
            line.end(place)
            self.in_flight -= place.sequences
            self._release()
        elif place in line.waiting:
            self._stop_waiting(place)

    def _reweigh(self, line: _Line, weight: float) -> None:
        if line.weight != weight:
            line.charge()
            line.weight = weight

    def _lift(self, line: _Line) -> None:
        """Let a caller that had nothing waiting begin no lower than the others are."""
        others = [other.charge() for other in self._lines.values() if other.waiting]
        if others:
            floor = min(others)
        elif self._last_to_wait is not None:
            floor = self._last_to_wait.charge()
        else:
            return
        line.counter = max(line.charge(), floor)

    def _check_bounds(self, line: _Line, tokens: int) -> None:
        most = self._max_waiting
        if most and len(line.waiting) >= most:
            raise QueueFullError(f"The queue is full: {most} requests of this key wait.")
        most = self._max_waiting_tokens
        if most and line.waiting and line.waiting_tokens + tokens > most:
            text = f"The queue is full: {line.waiting_tokens} prompt tokens of this key wait"
            raise QueueFullError(f"{text} and the limit is {most}.")

    def _stop_waiting(self, place: Place) -> asyncio.Future[None]:
        line = place.line
        future = line.waiting.pop(place)
        line.waiting_tokens -= place.prompt_tokens
        self.waiting -= 1
        if not line.waiting:
            self._last_to_wait = line
        return future

    def _start(self, place: Place) -> None:
        self.in_flight += place.sequences
        place.line.start(place)

    def _release(self) -> None:
        if not self.waiting:
            return
        lines = [line for line in self._lines.values() if line.waiting]
        for line in lines:
            line.charge()
        while self.waiting and (not self._enabled or self.in_flight < self.capacity):
            line = min((line for line in lines if line.waiting), key=lambda line: line.counter)
            place = next(iter(line.waiting))
            future = self._stop_waiting(place)
            if not future.done():
                self._start(place)
                future.set_result(None)
