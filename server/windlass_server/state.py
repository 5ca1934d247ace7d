"""What all requests of one server share: the engine once it is loaded, the phase, the counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from windlass.errors import EngineDeadError
from windlass.text import Tokenizer, TokensPrompt
from windlass_server.chat.call import ChatCall
from windlass_server.chat.format import ChatFormat, PlainFormat
from windlass_server.chat.render import ChatRenderer
from windlass_server.engine import Engine
from windlass_server.engine_view import ViewCache
from windlass_server.errors import ApiError, model_not_found, shutting_down, unavailable
from windlass_server.formats.detect import detect
from windlass_server.metrics import ServerMetrics
from windlass_server.responses.background import BackgroundResponses
from windlass_server.responses.store import ResponseStore
from windlass_server.settings import ServerSettings


def format_of(tokenizer: Tokenizer, settings: ServerSettings) -> ChatFormat:
    """Return how the model with this tokenizer writes reasoning and calls.

    Raises:
        ConfigError: a setting names no format.
    """
    template = settings.chat_template or tokenizer.chat_template
    return detect(
        template,
        tokenizer.special_tokens,
        tool_call_parser=settings.tool_call_parser,
        reasoning_parser=settings.reasoning_parser,
        added_tokens=tokenizer.hf_tokenizer.get_added_vocab(),
    )


def model_loading() -> ApiError:
    """Return the 503 of a server whose model is not there yet."""
    return unavailable("The model is loading; try again.", "model_loading", 5.0)


class ServerState:
    """Loading until `engine` is set, then serving until `draining`; `stopping` ends the rest."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = ServerMetrics(settings.model_name)
        self.views = ViewCache(settings, self.metrics)
        self.renderer = ChatRenderer(settings.chat_template, settings.template_timeout)
        self.responses = ResponseStore(
            settings.max_stored_responses,
            settings.max_stored_response_bytes,
            settings.response_ttl,
        )
        self.background = BackgroundResponses(self.responses, settings.max_background_responses)
        self.chat_format: ChatFormat = PlainFormat()
        self.created = int(time.time())
        self.draining = False
        self.stopping = asyncio.Event()
        self.in_flight = 0
        self._engine: Engine | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def engine(self) -> Engine | None:
        """The engine, None while it loads."""
        return self._engine

    def serve(self, engine: Engine) -> None:
        """Hand over the loaded engine: requests are accepted from now on."""
        self._engine = engine
        self.chat_format = format_of(engine.tokenizer, self.settings)
        self.metrics.read_from(engine)

    def serving_engine(self) -> Engine:
        """Return the engine for a new request.

        Raises:
            ApiError: 503 while loading or draining.
        """
        if self.draining:
            raise shutting_down()
        if self._engine is None:
            raise model_loading()
        return self._engine

    async def prompt(self, call: ChatCall, engine: Engine) -> TokensPrompt:
        """Return the prompt of `call`.

        Raises:
            RequestError: no template, messages it refuses, too much text, or too slow.
        """
        return await self.renderer.prompt(self.chat_format.prepared(call), engine)

    def require_model(self, name: str) -> None:
        """Raise a 404 unless `name` is served here."""
        if name not in self.settings.served_model_names:
            raise model_not_found(name)

    def require_ready(self) -> None:
        """Raise a 503 that says why requests are not accepted now."""
        engine = self.serving_engine()
        if not engine.is_ready:
            raise unavailable("The engine is restarting.", "engine_restarting", 5.0)

    def require_alive(self) -> None:
        """Raise a 503 when the engine is dead or hangs; a server that loads is alive."""
        if self._engine is None:
            return
        try:
            self._engine.check_health()
        except EngineDeadError as exc:
            raise unavailable("The engine is down.", "engine_dead", exc.retry_after or 5.0) from exc

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one HTTP request as in flight."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no HTTP request is in flight."""
        await self._idle.wait()
