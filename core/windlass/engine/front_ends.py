"""The front ends that one engine serves: its owner, and those that the owner attached."""

from __future__ import annotations

from collections.abc import Iterable

import zmq

from windlass.engine.ipc import EngineChannel, FromEngine, Outputs
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.request import Request

_HEARTBEAT_SECONDS = 1.0


class FrontEnd:
    """One front end, and what it was told last."""

    def __init__(self, channel: EngineChannel) -> None:
        self.channel = channel
        self._stats = EngineStats()
        self._told_at = 0.0

    def send(self, message: FromEngine) -> None:
        """Send without waiting."""
        self.channel.send(message)

    def is_due(self, now: float) -> bool:
        """Whether it has heard nothing for so long that it could doubt that steps end."""
        return now - self._told_at >= _HEARTBEAT_SECONDS

    def tell(self, outputs: list[SequenceOutput], stats: EngineStats, now: float) -> None:
        """Send the news of a step."""
        self.channel.send(Outputs(outputs=outputs, stats=stats))
        self._stats, self._told_at = stats, now

    def tell_idle(self, stats: EngineStats, now: float) -> None:
        """Send the gauges of an idle engine, once."""
        if stats != self._stats:
            self.tell([], stats, now)


class FrontEnds:
    """All front ends. While there is only the owner, nothing is looked up for a sequence.

    In `all` the owner comes last: what it says may take another one away.
    """

    def __init__(self, owner: EngineChannel) -> None:
        self._owner = FrontEnd(owner)
        self.all: tuple[FrontEnd, ...] = (self._owner,)
        self._attached: dict[int, FrontEnd] = {}
        self._senders: dict[str, FrontEnd] = {}
        self._poller = zmq.Poller()
        self._poller.register(owner.socket, zmq.POLLIN)

    def wait(self) -> None:
        """Return when one of them has sent something; sleeps until then."""
        self._poller.poll()

    def attach(self, number: int, endpoint: str, greeting: FromEngine) -> None:
        """Serve one more, at `endpoint`; `number` is not in use."""
        channel = EngineChannel(endpoint, self._owner.channel.context)
        self._attached[number] = front_end = FrontEnd(channel)
        self.all = (front_end, *self.all)
        self._poller.register(channel.socket, zmq.POLLIN)
        front_end.send(greeting)

    def detach(self, number: int) -> list[str]:
        """Serve it no longer; returns its sequences, whose news nobody gets from now on."""
        front_end = self._attached.pop(number, None)
        if front_end is None:
            return []
        self.all = tuple(other for other in self.all if other is not front_end)
        self._poller.unregister(front_end.channel.socket)
        front_end.channel.close()
        return [name for name, sender in self._senders.items() if sender is front_end]

    def close_attached(self) -> None:
        """Close every channel but the owner's."""
        for number in list(self._attached):
            self.detach(number)

    def add(self, request: Request, sender: FrontEnd) -> None:
        """Note who sent a sequence."""
        if sender is not self._owner:
            self._senders[request.request_id] = sender

    def split(
        self, outputs: list[SequenceOutput]
    ) -> Iterable[tuple[FrontEnd, list[SequenceOutput]]]:
        """Return every front end with its share of the news of a step."""
        if len(self.all) == 1 and not self._senders:
            return ((self._owner, outputs),)
        shares: dict[FrontEnd, list[SequenceOutput]] = {front_end: [] for front_end in self.all}
        for output in outputs:
            sender = self._sender_of(output)
            if sender in shares:
                shares[sender].append(output)
        return shares.items()

    def _sender_of(self, output: SequenceOutput) -> FrontEnd:
        senders, name = self._senders, output.request_id
        sender = senders.pop(name, None) if output.finished else senders.get(name)
        return sender or self._owner
