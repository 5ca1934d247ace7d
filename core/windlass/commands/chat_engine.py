"""Chats with an engine of its own, in a process beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from windlass.async_engine import AsyncEngine
from windlass.commands.chat_partner import AnswerTimes, Message
from windlass.config import EngineConfig
from windlass.progress import ProgressBar
from windlass.request import RequestOutput, SamplingParams
from windlass.text import encode_chat, render_chat

if TYPE_CHECKING:
    from windlass.request_stream import RequestStream


class EnginePartner:
    """An engine that runs as long as the `with` statement."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self._config = config
        self._options: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._options["temperature"] = temperature
        # Its signal handler turns Ctrl-C into a cancelled await, which aborts the request.
        self._runner = asyncio.Runner()
        self._engine: AsyncEngine
        self.name = Path(config.model.model).name
        self.times = AnswerTimes()

    def answer(self, messages: list[Message]) -> Generator[str]:
        """Yield the answer piece by piece; closing the generator aborts the request."""
        self.times = AnswerTimes()
        tokenizer = self._engine.tokenizer
        prompt = encode_chat(tokenizer, render_chat(tokenizer, messages))
        sampling = SamplingParams(**{**self._engine.default_sampling, **self._options})
        stream = self._runner.run(self._engine.submit(prompt, sampling, delta=True))
        tokens = 0
        try:
            while (output := self._runner.run(_next(stream))) is not None:
                completion = output.outputs[0]
                tokens += len(completion.token_ids)
                self.times.note(tokens)
                if completion.text:
                    yield completion.text
        finally:
            self._runner.run(stream.aclose())

    def __enter__(self) -> Self:
        try:
            with ProgressBar() as bar:
                self._engine = self._runner.run(AsyncEngine.start(self._config, bar.report))
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._engine.shutdown())
        self._runner.close()


async def _next(stream: RequestStream[RequestOutput]) -> RequestOutput | None:
    return await anext(stream, None)
