"""Renders chat templates that clients sent: in a process of its own, which can be killed.

The parent writes one message (in msgpack) and reads one. Nothing but the
template, its variables and the rendered text goes through the pipe. `python -m` of this module is
the process; its memory is limited by `setrlimit`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from windlass.pipe import read_message, write_message

if TYPE_CHECKING:
    from windlass.text import Tokenizer

MAX_MEMORY = 1024 * 1024 * 1024
"""Address space of the process, in bytes; it holds transformers and Jinja."""


class RenderTask(msgspec.Struct):
    """The arguments of `windlass.text.render_chat`, and the model's special tokens by name."""

    template: str
    special_tokens: dict[str, str]
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    template_kwargs: dict[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    max_bytes: int


class Rendered(msgspec.Struct):
    """The text, or why there is none: the fields of a RequestError."""

    text: str = ""
    error: str = ""
    param: str | None = None
    code: str = "invalid_value"


class TemplateProcess:
    """The parent's side: started at the first task, started again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Wait until the process is there; called before the time of a task begins."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()

    def render(self, task: RenderTask) -> Rendered:
        """Render, in the calling thread.

        Raises:
            EOFError: the process was killed, or ran out of memory.
        """
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                raise EOFError
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                write_message(process.stdin, msgspec.msgpack.encode(task))
            except OSError as exc:
                raise EOFError from exc
            return msgspec.msgpack.decode(read_message(process.stdout), type=Rendered)

    def kill(self) -> None:
        """End the process, and with it a task that runs."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the process and close its pipes."""
        self.kill()
        with self._lock:
            process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout) if process is not None else ():
            if pipe is not None:
                pipe.close()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-c", _PROGRAM.format(path=sys.path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    read_message(process.stdout)
    return process


_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; "
    "from windlass_server.chat.template_process import main; main()"
)


def main() -> None:
    """Render tasks from standard input until it ends."""
    import resource

    # Loads what rendering needs before memory is limited and before a task's time begins.
    _tokenizer({})
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    write_message(writer, b"")
    while True:
        try:
            task = msgspec.msgpack.decode(read_message(reader), type=RenderTask)
        except EOFError:
            return
        write_message(writer, msgspec.msgpack.encode(_render(task)))


def _tokenizer(special_tokens: dict[str, str]) -> Tokenizer:
    """Return a tokenizer without a vocabulary: templates see nothing but its special tokens."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    from windlass.text import Tokenizer

    empty = tokenizers.Tokenizer(tokenizers.models.WordLevel({}, unk_token=""))
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=empty, **special_tokens))


def _render(task: RenderTask) -> Rendered:
    from windlass.errors import RequestError
    from windlass.text import render_chat

    try:
        text = render_chat(
            _tokenizer(task.special_tokens),
            task.messages,
            tools=task.tools,
            chat_template=task.template,
            template_kwargs=task.template_kwargs,
            add_generation_prompt=task.add_generation_prompt,
            continue_final_message=task.continue_final_message,
            max_bytes=task.max_bytes,
        )
    except RequestError as error:
        return Rendered(error=error.message, param=error.param, code=error.code)
    except MemoryError:
        return Rendered(error="The chat template needs too much memory.", param="chat_template")
    return Rendered(text)
