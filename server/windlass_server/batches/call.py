"""A line of a batch, called on the application itself, and what is written of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import httpx
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_server.access.caller import Caller, run_as
from windlass_server.batches.lines import BatchLine, LineFault, custom_id_of, read_line

MAX_ATTEMPTS = 3
"""How often a line is run that the engine dies of."""


class ResultResponse(msgspec.Struct):
    """The answer of the application, whatever its status."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class ResultError(msgspec.Struct):
    """Why there is no answer."""

    code: str
    message: str


class ResultLine(msgspec.Struct):
    """A line of an output or error file."""

    id: str
    custom_id: str | None
    response: ResultResponse | None
    error: ResultError | None

    @property
    def ok(self) -> bool:
        """Whether the request was answered with success."""
        return self.response is not None and self.response.status_code < 400

    def encode(self) -> bytes:
        """Return the line as JSON, its end included."""
        return msgspec.json.encode(self) + b"\n"


class TokenCounts(msgspec.Struct):
    """Tokens that an answer took."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class LineAnswer(msgspec.Struct, frozen=True):
    """What the application answered; `retry_after` (seconds) where the same call may succeed later.

    `started` tells whether the engine had begun with it.
    """

    status: int
    request_id: str
    body: bytes
    retry_after: float | None
    started: bool

    def result(self, line: BatchLine) -> ResultLine:
        """Return what is written of it."""
        response = ResultResponse(self.status, self.request_id, msgspec.Raw(self.body))
        return ResultLine(_new_id(), line.custom_id, response, None)

    def tokens(self) -> TokenCounts:
        """Return the tokens that the answer reports, under any of the surfaces' names."""
        usage = msgspec.json.decode(self.body, type=_Answer).usage if self.status < 400 else None
        if usage is None:
            return TokenCounts()
        inputs = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        outputs = usage.completion_tokens_details or usage.output_tokens_details or _Details()
        return TokenCounts(
            usage.prompt_tokens or usage.input_tokens,
            inputs.cached_tokens,
            usage.completion_tokens or usage.output_tokens,
            outputs.reasoning_tokens,
        )


def faulty(custom_id: str | None, fault: LineFault) -> ResultLine:
    """Return what is written of a line that could not be called."""
    return ResultLine(_new_id(), custom_id, None, ResultError(fault.code, fault.message))


def _new_id() -> str:
    return f"batch_req_{uuid4().hex}"


async def call(app: ASGIApp, line: BatchLine, caller: Caller) -> LineAnswer:
    """Call `app` as a request of `caller` would, without a key; cancelling aborts the work."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        run_as(scope, caller)
        await app(scope, receive, send)

    request = httpx.Request(
        "POST",
        f"http://batch{line.url}",
        content=line.body,
        headers={"content-type": "application/json"},
    )
    response = await httpx.ASGITransport(marked).handle_async_request(request)
    body = await response.aread()
    headers = response.headers
    away = response.status_code == 503
    again = away or headers.get("x-should-retry") == "true"
    return LineAnswer(
        response.status_code,
        headers.get("x-request-id", ""),
        body,
        float(headers.get("retry-after-ms", 1000)) / 1000 if again else None,
        started=not away,
    )


async def run_line(
    app: ASGIApp,
    data: bytes,
    max_bytes: int,
    caller: Caller,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[ResultLine, TokenCounts]:
    """Run a line of an input until there is an answer that stands, and return its result.

    What is refused for now is asked again after `pause`, which gets seconds.
    """
    try:
        line = read_line(data, max_bytes)
    except LineFault as fault:
        return faulty(custom_id_of(data), fault), TokenCounts()
    attempts = 0
    while True:
        answer = await call(app, line, caller)
        attempts += answer.started
        if answer.retry_after is None or attempts >= MAX_ATTEMPTS:
            return answer.result(line), answer.tokens()
        await pause(answer.retry_after)
