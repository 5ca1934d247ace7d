"""From messages to a prompt: off the event loop, bounded in time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from windlass.errors import ContextLengthError, RequestError
from windlass.text import Tokenizer, TokensPrompt, encode_chat, render_chat
from windlass_server.chat.bounded import InterruptibleCall, run_bounded
from windlass_server.chat.call import ChatCall
from windlass_server.chat.template_process import Rendered, RenderTask, TemplateProcess
from windlass_server.engine import Engine

_THREADS = 4
_MAX_BYTES_OF_A_CHARACTER = 4
_PROCESS_START = 60.0
"""Seconds that the process may take to import what it needs."""


class ChatRenderer:
    """Renders with the operator's template in a thread, with a client's in a process.

    `timeout` (seconds) bounds one rendering. `chat_template` replaces the model's own.
    """

    def __init__(self, chat_template: str | None, timeout: float) -> None:
        self._chat_template = chat_template
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(_THREADS, "chat-template")
        self._process = TemplateProcess()
        self._process_free = asyncio.Lock()

    async def prompt(self, call: ChatCall, engine: Engine) -> TokensPrompt:
        """Return the prompt of `call`.

        Raises:
            RequestError: no template, messages it refuses, too much text, or too slow.
        """
        try:
            return await self._prompt(call, engine)
        except TimeoutError:
            text = f"The chat template did not end within {self._timeout:g} s."
            raise RequestError(text, param="messages") from None
        except RequestError as exc:
            if exc.code != "context_length_exceeded":
                raise
            limit = engine.info.max_model_len
            raise ContextLengthError(
                f"This model's maximum context length is {limit} tokens. However, your messages "
                "have more. Shorten them.",
                param="messages",
            ) from None

    async def _prompt(self, call: ChatCall, engine: Engine) -> TokensPrompt:
        tokenizer = engine.tokenizer
        longest = engine.info.max_model_len * tokenizer.longest_token
        max_bytes = longest * _MAX_BYTES_OF_A_CHARACTER
        if call.chat_template is not None:
            rendered = await self._with_client_template(call, tokenizer, max_bytes)
            return await self._interruptible(lambda: encode_chat(tokenizer, rendered))

        def render() -> TokensPrompt:
            rendered = render_chat(
                tokenizer,
                call.messages,
                tools=call.shown_tools or None,
                add_generation_prompt=call.add_generation_prompt,
                continue_final_message=call.continue_final_message,
                chat_template=self._chat_template,
                template_kwargs=call.template_kwargs,
                max_bytes=max_bytes,
            )
            return encode_chat(tokenizer, rendered)

        return await self._interruptible(render)

    async def _interruptible(self, function: Callable[[], TokensPrompt]) -> TokensPrompt:
        work = InterruptibleCall(function)
        return await run_bounded(self._pool, work, work.stop, self._timeout)

    async def _with_client_template(
        self, call: ChatCall, tokenizer: Tokenizer, max_bytes: int
    ) -> str:
        assert call.chat_template is not None
        special = tokenizer.hf_tokenizer.special_tokens_map
        task = RenderTask(
            template=call.chat_template,
            special_tokens={name: str(token) for name, token in special.items()},
            messages=call.messages,
            tools=call.shown_tools or None,
            template_kwargs=call.template_kwargs,
            add_generation_prompt=call.add_generation_prompt,
            continue_final_message=call.continue_final_message,
            max_bytes=max_bytes,
        )
        rendered = await self._in_process(task)
        if rendered.error:
            raise RequestError(rendered.error, param=rendered.param, code=rendered.code)
        return rendered.text

    async def _in_process(self, task: RenderTask) -> Rendered:
        process = self._process
        async with self._process_free:
            await run_bounded(self._pool, process.start, process.kill, _PROCESS_START)
            try:
                return await run_bounded(
                    self._pool, lambda: process.render(task), process.kill, self._timeout
                )
            except EOFError:
                text = "The chat template needs too much memory."
                raise RequestError(text, param="chat_template") from None

    def close(self) -> None:
        """End the threads and the process."""
        self._process.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
