"""What becomes known of one HTTP request, for the log lines and spans that tell of it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windlass.request import SamplingParams
    from windlass_server.errors import ErrorObject
    from windlass_server.metrics import RequestTimer


@dataclass(slots=True, eq=False)
class RequestRecord:
    """Filled while the request is served: there is nothing to do per token.

    `model` is the name that labels metrics, "" where the request needs none. `timers` are those
    of its engine requests. `pooled_tokens` went into embeddings or scores. `error` is what the
    client was told last, and `left` says that it did not stay for its answer.
    """

    request_id: str
    model: str = ""
    sampling: SamplingParams | None = None
    timers: list[RequestTimer] = field(default_factory=list)
    pooled_tokens: int | None = None
    error: ErrorObject | None = None
    left: bool = False

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of all prompts; None where nothing was computed."""
        known = [timer.prompt_tokens for timer in self.timers if timer.prompt_tokens is not None]
        return sum(known) if known else self.pooled_tokens

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all answers; None where nothing was generated."""
        return sum(timer.tokens for timer in self.timers) if self.timers else None


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def begin_record(request_id: str) -> RequestRecord:
    """Return the record of a request that begins, current in its task from now on."""
    record = RequestRecord(request_id)
    _current.set(record)
    return record


def current_record() -> RequestRecord:
    """Return the record of the request that this task serves; outside of one it is nobody's."""
    return _current.get() or RequestRecord("")
