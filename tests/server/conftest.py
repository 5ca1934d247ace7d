"""An engine without a model, and the server around it: in process, or on a real port."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from msgspec.structs import replace

from windlass import demo_model
from windlass.config import ModelInfo
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.view import EngineView, SequenceView
from windlass.errors import EngineDeadError, QueueFullError, WindlassError
from windlass.request import Logprob, Request, RequestOutput, SamplingParams, TokenLogprobs
from windlass.request_stream import Inbox, RequestStream, merge_deltas
from windlass.text import InputProcessor, OutputProcessor, ProcessedRequest, Prompt, Tokenizer
from windlass_server.app import create_app
from windlass_server.formats.chat_format import ModelFormat
from windlass_server.formats.detect import REASONING
from windlass_server.formats.json_calls import Hermes
from windlass_server.lifecycle import http_server, listen
from windlass_server.state import ServerState

sys.path.insert(0, str(Path(__file__).parent))

from make_settings import make_settings

MODEL = "fake-model"
ANSWER = "Üben: the windlass hauls 3 ropes, 猫 and 🐈 watch. It stops by itself."


class FakeEngine:
    """AsyncEngine's interface with scripted answers instead of a model.

    Text goes in and out through the real processors. Each step gives every sequence one token of
    `answer` and waits for `gate`, which closes after `pause_after` steps; the last token is the
    end of the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.info = ModelInfo(
            model=MODEL,
            architecture="Fake",
            backend="fake",
            device="none",
            dtype="float32",
            vocab_size=tokenizer.vocab_size,
            max_model_len=256,
            block_size=16,
            num_blocks=64,
            max_num_seqs=8,
            num_parameters=1,
            weight_bytes=4,
            kv_cache_bytes=1024,
            load_seconds=0.0,
            structured_outputs=True,
        )
        self.tokenizer = tokenizer
        self.default_sampling: dict[str, Any] = {"temperature": 0.7}
        self.answer = ANSWER
        self.gate = asyncio.Event()
        self.gate.set()
        self.pause_after: int | None = None
        self.submitted: list[ProcessedRequest] = []
        self.aborted: list[str] = []
        self.running: dict[str, tuple[asyncio.Task[None], Inbox[RequestOutput]]] = {}
        self.refusal: WindlassError | None = None
        self.dead: EngineDeadError | None = None
        self.was_shut_down = False
        self.restarts = 0
        self.looks = 0
        self._stats = EngineStats(num_blocks=64, num_free_blocks=64)
        self._inputs = InputProcessor(self.info, tokenizer)
        self._outputs = OutputProcessor(tokenizer)

    async def submit(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        delta: bool = False,
    ) -> RequestStream[RequestOutput]:
        """Queue a request."""
        refusal = self.dead or self.refusal
        if refusal is not None:
            raise refusal
        request_id = request_id or f"req-{len(self.submitted)}"
        processed = self._inputs.process(
            request_id, prompt, sampling, priority=priority, cache_salt=cache_salt
        )
        self.submitted.append(processed)
        self._outputs.add(processed, delta=delta)
        inbox = Inbox(request_id, merge_deltas if delta else None)
        task = asyncio.create_task(self._run(processed, inbox))
        self.running[request_id] = (task, inbox)
        return RequestStream(inbox, self._abort)

    async def _run(self, processed: ProcessedRequest, inbox: Inbox[RequestOutput]) -> None:
        tokens = [*self.tokenizer.encode(self.answer, add_special_tokens=False), 2]
        for step, token in enumerate(tokens):
            await asyncio.sleep(0)
            await self.gate.wait()
            self._stats.num_steps += 1
            news = [self._news(r, step, token, tokens) for r in processed.requests]
            results, _ = self._outputs.update(news)
            for result in results:
                inbox.put(result)
            if inbox.ended:
                break
            if step + 1 == self.pause_after:
                self.gate.clear()
        del self.running[processed.request_id]

    def _news(self, request: Request, step: int, token: int, tokens: list[int]) -> SequenceOutput:
        sampling = request.sampling
        assert sampling.max_tokens is not None
        output = SequenceOutput(request_id=request.request_id, new_token_ids=[token])
        if sampling.logprobs is not None:
            output.logprobs = [_logprobs(token, sampling.logprobs)]
        if step == 0:
            output.num_cached_tokens = 1
            if sampling.prompt_logprobs is not None:
                known = [_logprobs(t, sampling.prompt_logprobs) for t in request.prompt_token_ids]
                output.prompt_logprobs = [None, *known[1:]]
        if step + 1 == len(tokens):
            output.finish_reason = "stop"
        elif step + 1 == sampling.max_tokens:
            output.finish_reason = "length"
        return output

    def _abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        task, inbox = self.running.pop(request_id)
        task.cancel()
        self._outputs.abort(request_id)
        inbox.end()

    def widen(self, max_model_len: int) -> None:
        """Give the model a longer context."""
        self.info = replace(self.info, max_model_len=max_model_len)
        self._inputs = InputProcessor(self.info, self.tokenizer)

    async def wait_paused(self) -> None:
        """Wait until `pause_after` has closed the gate and what came before has been read."""
        while self.gate.is_set():
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)

    def fail(self, request_id: str, error: WindlassError) -> None:
        """Let a running request end with an error."""
        task, inbox = self.running.pop(request_id)
        task.cancel()
        inbox.fail(error)

    def die(self, retry_after: float | None = 2.0) -> None:
        """Let the engine process die under everything that runs."""
        self.dead = EngineDeadError("the engine process died", retry_after=retry_after)
        for request_id in list(self.running):
            self.fail(request_id, self.dead)

    def overload(self) -> None:
        """Refuse new requests as a full queue does."""
        self.refusal = QueueFullError("The queue is full.", retry_after=2.5)

    def stats(self) -> EngineStats:
        """Return gauges and counters."""
        self._stats.num_running = len(self.running)
        return self._stats

    async def view(self) -> EngineView:
        """Show a sequence per running request, each in a block of its own."""
        if self.dead is not None:
            raise self.dead
        self.looks += 1
        sequences = [
            SequenceView(
                request_id=name,
                state="running",
                num_prompt_tokens=3,
                num_output_tokens=1,
                num_computed_tokens=4,
                num_cached_tokens=0,
                num_preemptions=0,
                age=0.5,
                num_blocks=1,
                block_ids=[block],
            )
            for block, name in enumerate(self.running, 1)
        ]
        return EngineView(
            stats=self.stats(),
            block_size=self.info.block_size,
            num_cached_blocks=0,
            blocks=[1] * len(sequences) + [0] * (63 - len(sequences)),
            sequences=sequences,
            sequences_left_out=0,
        )

    def check_health(self) -> None:
        """Raise when dead."""
        if self.dead is not None:
            raise self.dead

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self.dead is None

    async def shutdown(self) -> None:
        """End."""
        self.was_shut_down = True


def _logprobs(token: int, count: int) -> TokenLogprobs:
    entries = {token: Logprob(-0.5, 1)}
    for rank in range(2, count + 1):
        entries[(token + rank) % 300 + 3] = Logprob(-float(rank), rank)
    return entries


class MakeClient(Protocol):
    """Makes an in-process client for a server with these settings."""

    async def __call__(self, **settings: Any) -> httpx.AsyncClient: ...


class Serve(Protocol):
    """Starts a server on a free port with these settings."""

    async def __call__(self, **settings: Any) -> tuple[ServerState, httpx.AsyncClient]: ...


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(str(demo_model.path()))


@pytest.fixture
async def engine(tokenizer: Tokenizer) -> FakeEngine:
    return FakeEngine(tokenizer)


@pytest.fixture
def make_state(engine: FakeEngine) -> Callable[..., ServerState]:
    def make(*, loaded: bool = True, **settings: Any) -> ServerState:
        state = ServerState(make_settings(**settings))
        if loaded:
            state.serve(engine)
            state.models.default.chat_format = ModelFormat(Hermes(), REASONING["think"])
        return state

    return make


@pytest.fixture
async def make_client(make_state: Callable[..., ServerState]) -> AsyncIterator[MakeClient]:
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> httpx.AsyncClient:
            state = settings.pop("state", None) or make_state(**settings)
            transport = httpx.ASGITransport(create_app(state))
            return await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://server")
            )

        yield make


@pytest.fixture
async def client(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client()


@asynccontextmanager
async def _listening(state: ServerState) -> AsyncIterator[httpx.AsyncClient]:
    server = http_server(create_app(state), state.settings)
    sock = listen(state.settings)
    port = sock.getsockname()[1]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        state.stopping.set()
        server.should_exit = True
        await task


@pytest.fixture
async def serve(make_state: Callable[..., ServerState]) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> tuple[ServerState, httpx.AsyncClient]:
            state = make_state(port=0, **settings)
            return state, await stack.enter_async_context(_listening(state))

        yield start
