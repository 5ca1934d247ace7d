"""One model that a server was told of, whether it is loaded or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum

from windlass.config import ModelInfo
from windlass.errors import EngineDeadError
from windlass.text import Tokenizer, TokensPrompt
from windlass_server.chat.call import ChatCall
from windlass_server.chat.format import ChatFormat, PlainFormat
from windlass_server.chat.render import ChatRenderer
from windlass_server.engine import Engine
from windlass_server.engine_view import ViewCache
from windlass_server.formats.detect import detect
from windlass_server.metrics import ServerMetrics
from windlass_server.models.settings import ModelSettings

StartEngine = Callable[[Callable[[str, float], None]], Awaitable[Engine]]
"""Starts an engine; gets the function that is told (what is loaded, share done)."""


class Phase(Enum):
    """What a model is doing."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    LEAVING = "leaving"
    """It finishes what runs and takes nothing new: its memory is wanted."""


def format_of(tokenizer: Tokenizer, settings: ModelSettings) -> ChatFormat:
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


class ServedModel:
    """Its engine while it is loaded, how it is talked to, and what is counted of it.

    `engine` is None unless it is loaded. `info` is of the last time it was. While it is `asleep`
    requests are refused; only being woken loads it again.
    """

    def __init__(self, settings: ModelSettings, template_timeout: float) -> None:
        self.settings = settings
        self.metrics = ServerMetrics(settings.name)
        self.views = ViewCache(settings.name, self.metrics)
        self.renderer = ChatRenderer(settings.chat_template, template_timeout)
        self.chat_format: ChatFormat = PlainFormat()
        self.phase = Phase.UNLOADED
        self.asleep = False
        self.engine: Engine | None = None
        self.info: ModelInfo | None = None
        self.in_use = 0
        self.last_used = time.monotonic()
        self._unused = asyncio.Event()
        self._unused.set()

    def serve(self, engine: Engine) -> None:
        """Hand over the loaded engine: requests are accepted from now on.

        Raises:
            ConfigError: a setting names no format of this model.
        """
        self.chat_format = format_of(engine.tokenizer, self.settings)
        self.engine, self.info = engine, engine.info
        self.phase = Phase.LOADED
        self.last_used = time.monotonic()
        self.metrics.read_from(engine)

    def use(self) -> None:
        """Keep the model loaded until `leave`."""
        self.in_use += 1
        self._unused.clear()

    def leave(self) -> None:
        """Take one `use` back."""
        self.in_use -= 1
        self.last_used = time.monotonic()
        if not self.in_use:
            self._unused.set()

    async def wait_unused(self) -> None:
        """Wait until nobody uses it."""
        await self._unused.wait()

    async def unload(self) -> None:
        """End the engine and give everything back; what still runs on it ends with an error."""
        engine, self.engine = self.engine, None
        self.phase = Phase.UNLOADED
        self.metrics.read_from(None)
        if engine is not None:
            await engine.shutdown()

    @property
    def is_serving(self) -> bool:
        """Whether requests are taken without loading anything."""
        return self.phase is Phase.LOADED and not self.asleep

    @property
    def status(self) -> str:
        """What it is doing, in a word."""
        return "sleeping" if self.asleep else self.phase.value

    @property
    def is_down_for_good(self) -> bool:
        """Whether its engine died and is not started again."""
        engine = self.engine
        if engine is None or engine.is_ready:
            return False
        try:
            engine.check_health()
        except EngineDeadError as exc:
            return exc.retry_after is None
        return False

    async def prompt(self, call: ChatCall, engine: Engine) -> TokensPrompt:
        """Return the prompt of `call`.

        Raises:
            RequestError: no template, messages it refuses, too much text, or too slow.
        """
        return await self.renderer.prompt(self.chat_format.prepared(call), engine)

    async def close(self) -> None:
        """End the engine and what rendered for it."""
        self.renderer.close()
        await self.unload()
