"""What the consumer of one request holds: an iterator that never keeps more than the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

from windlass.errors import WindlassError
from windlass.request import CompletionOutput, RequestOutput, TokenLogprobs


class _HasEnd(Protocol):
    finished: bool


Output = TypeVar("Output", bound=_HasEnd)


class Inbox(Generic[Output]):
    """Where a request's outputs wait for their consumer: at most one, newer news merged into it.

    Cumulative outputs replace each other; with `merge` they are joined. It ends once: with a
    finished output, an error, or `end`.
    """

    def __init__(
        self, request_id: str, merge: Callable[[Output, Output], Output] | None = None
    ) -> None:
        self.request_id = request_id
        self.ended = False
        self._merge = merge
        self._waiting: Output | None = None
        self._error: WindlassError | None = None
        self._consumer: asyncio.Future[None] | None = None

    def put(self, output: Output) -> None:
        """Add news; the last one is `finished`."""
        if self.ended:
            return
        if self._merge is not None and self._waiting is not None:
            output = self._merge(self._waiting, output)
        self._waiting = output
        self.ended = output.finished
        self._wake()

    def fail(self, error: WindlassError) -> None:
        """End with an error, raised after the news that are still waiting."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._wake()

    def end(self) -> None:
        """End without more news."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    async def take(self) -> Output | None:
        """Wait for news and return them; None after the end; raises what it failed with."""
        if self._waiting is None and not self.ended:
            self._consumer = asyncio.get_running_loop().create_future()
            await self._consumer
        output, self._waiting = self._waiting, None
        if output is not None:
            return output
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None


class RequestStream(Generic[Output]):
    """The outputs of one request, for one consumer, on the event loop that submitted it.

    Leaving early in any way (`aclose`, `abort`, a cancelled `__anext__`, or dropping the stream
    as `break` does) aborts the request in the engine.

    Raises:
        RequestFailedError: this request made a step fail.
        EngineDeadError: the engine process died under it.
    """

    def __init__(self, inbox: Inbox[Output], abort: Callable[[str], None]) -> None:
        self._inbox = inbox
        self._abort = abort
        self._loop = asyncio.get_running_loop()

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._inbox.request_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        try:
            output = await self._inbox.take()
        except asyncio.CancelledError:
            self.abort()
            raise
        if output is None:
            raise StopAsyncIteration
        return output

    def abort(self) -> None:
        """Stop the request; nothing happens when it has ended."""
        if not self._inbox.ended:
            self._abort(self.request_id)

    async def aclose(self) -> None:
        """Stop the request and the iteration."""
        self.abort()

    def __del__(self) -> None:
        # The collector may run on any thread; the engine lives on the loop's.
        if not self._inbox.ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abort, self.request_id)


AnyInbox = Inbox[Any]
"""An inbox whatever its outputs are."""


def merge_deltas(earlier: RequestOutput, later: RequestOutput) -> RequestOutput:
    """Return the one delta that says what two successive ones said."""
    completions = {completion.index: completion for completion in earlier.outputs}
    for completion in later.outputs:
        before = completions.get(completion.index)
        completions[completion.index] = (
            completion if before is None else _merge_completions(before, completion)
        )
    return RequestOutput(
        request_id=later.request_id,
        prompt=later.prompt,
        prompt_token_ids=later.prompt_token_ids,
        outputs=[completions[index] for index in sorted(completions)],
        finished=later.finished,
        prompt_logprobs=earlier.prompt_logprobs or later.prompt_logprobs,
        num_cached_tokens=later.num_cached_tokens,
        metrics=later.metrics,
    )


def _merge_completions(earlier: CompletionOutput, later: CompletionOutput) -> CompletionOutput:
    return CompletionOutput(
        index=later.index,
        text=earlier.text + later.text,
        token_ids=[*earlier.token_ids, *later.token_ids],
        cumulative_logprob=later.cumulative_logprob,
        logprobs=_merge_logprobs(earlier.logprobs, later.logprobs),
        finish_reason=later.finish_reason,
        stop_reason=later.stop_reason,
    )


def _merge_logprobs(
    earlier: list[TokenLogprobs] | None, later: list[TokenLogprobs] | None
) -> list[TokenLogprobs] | None:
    if earlier is None or later is None:
        return earlier or later
    return earlier + later
