"""The requests that a front end has in its engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

from windlass.request import Request
from windlass.request_stream import AnyInbox


@dataclass(slots=True)
class InFlight:
    """A request in the engine, under the id that it has there, and its unfinished sequences.

    `queued_tokens` counts its prompt tokens until the engine has answered first.
    """

    engine_id: str
    inbox: AnyInbox
    sequences: set[str]
    queued_tokens: int


class InFlightTable:
    """Every request in flight.

    In the engine a request is a fresh number: an id that a client uses again can never meet late
    news of its former request, nor two ids clash. `prefix` stands before the numbers of one of
    several front ends.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.by_client_id: dict[str, InFlight] = {}
        self.by_engine_id: dict[str, InFlight] = {}
        self.by_sequence: dict[str, InFlight] = {}
        self.queued_tokens = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._numbers = count()

    def new_engine_id(self) -> str:
        """Return an id that was never used."""
        return f"{self._prefix}{next(self._numbers)}"

    def add(self, engine_id: str, requests: list[Request], inbox: AnyInbox) -> None:
        """Add a client's request, whose sequences `requests` are about to be sent."""
        sequences = {request.request_id for request in requests}
        tokens = sum(len(request.prompt_token_ids) for request in requests)
        in_flight = InFlight(engine_id, inbox, sequences, tokens)
        self.by_client_id[inbox.request_id] = in_flight
        self.by_engine_id[in_flight.engine_id] = in_flight
        self.by_sequence.update(dict.fromkeys(sequences, in_flight))
        self.queued_tokens += tokens
        self.idle.clear()

    def client_id(self, sequence_id: str) -> str:
        """Return the client's id of a sequence's request, "" when it was forgotten since.

        A sequence of another front end keeps its id.
        """
        in_flight = self.by_sequence.get(sequence_id)
        if in_flight is not None:
            return in_flight.inbox.request_id
        return "" if sequence_id.startswith(self._prefix) else sequence_id

    def answered(self, in_flight: InFlight) -> None:
        """Note that a request no longer waits for its first news."""
        self.queued_tokens -= in_flight.queued_tokens
        in_flight.queued_tokens = 0

    def end_sequence(self, sequence_id: str) -> None:
        """Note that a sequence ended."""
        in_flight = self.by_sequence.pop(sequence_id, None)
        if in_flight is not None:
            in_flight.sequences.discard(sequence_id)

    def remove(self, in_flight: InFlight) -> list[str]:
        """Remove a request and return its unfinished sequences."""
        self.answered(in_flight)
        del self.by_client_id[in_flight.inbox.request_id]
        del self.by_engine_id[in_flight.engine_id]
        unfinished = list(in_flight.sequences)
        for sequence_id in unfinished:
            self.end_sequence(sequence_id)
        if not self.by_engine_id:
            self.idle.set()
        return unfinished
