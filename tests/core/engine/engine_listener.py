"""Who uses an engine in tests: notes what it says."""

from __future__ import annotations

from windlass.engine.ipc import Outputs, RequestRejected
from windlass.errors import EngineDeadError


class Listener:
    """Collects what the client reports."""

    def __init__(self) -> None:
        self.unfinished: set[str] = set()
        self.tokens: dict[str, list[int]] = {}
        self.deaths: list[EngineDeadError] = []

    @property
    def has_unfinished(self) -> bool:
        return bool(self.unfinished)

    def on_outputs(self, message: Outputs) -> None:
        for output in message.outputs:
            self.tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            if output.finished:
                self.unfinished.discard(output.request_id)

    def on_rejected(self, message: RequestRejected) -> None:
        self.unfinished.discard(message.request_id)

    def on_death(self, error: EngineDeadError) -> None:
        self.deaths.append(error)
        self.unfinished.clear()
