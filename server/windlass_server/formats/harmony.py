"""OpenAI's harmony format (gpt-oss): messages in channels, calls as messages to a recipient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.parser import AnswerParser
from windlass_server.formats.syntax import Arguments, Part, ToolSyntax

if TYPE_CHECKING:
    from windlass_server.formats.reader import Reading

CHANNEL, MESSAGE, START, END = "<|channel|>", "<|message|>", "<|start|>", "<|end|>"
CALL, RETURN, CONSTRAIN = "<|call|>", "<|return|>", "<|constrain|>"
_ENDS = (END, CALL, RETURN, START)
_RECIPIENT = "to=functions."


class Harmony(ToolSyntax):
    """How a call is written; `HarmonyParser` reads it."""

    name: ClassVar[str] = "harmony"
    markers = (CHANNEL, MESSAGE, START, CONSTRAIN, END, CALL, RETURN)

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """Nothing: a call is a message like others."""
        yield from ()

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """A message to the function."""
        head = f"commentary {_RECIPIENT}{name} "
        return [CHANNEL, head, CONSTRAIN, "json", MESSAGE, Arguments(schema), CALL]


class HarmonyParser(AnswerParser):
    """Reads messages: analysis is reasoning, final and commentary are text, the rest are calls."""

    def _read(self, in_reasoning: bool) -> Reading[None]:
        reader = self.reader
        while True:
            header: list[str] = []
            if (yield from reader.until((MESSAGE,), header.append)) is None:
                # An answer without a channel is text; a header that was cut says nothing.
                text = "".join(header)
                if CHANNEL not in text and START not in text:
                    self.content(text)
                return
            text = "".join(header)
            if name := _called(text):
                ended = yield from self._arguments_of(name)
            else:
                channel = text.rpartition(CHANNEL)[2].strip()
                out = self.thought if channel.startswith("analysis") else self.content
                ended = yield from reader.until(_ENDS, out)
            if ended is None:
                return

    def _arguments_of(self, name: str) -> Reading[str | None]:
        """The message to a function; an empty one that has ended is an empty object."""
        self.begin_call(name)
        yield from self.reader.skip_space()
        for marker in _ENDS:
            if (yield from self.reader.starts_with(marker)):
                self.arguments("{}")
                return marker
        return (yield from self.reader.until(_ENDS, self.arguments))


def _called(header: str) -> str | None:
    """The function that a message is for; None when it is for the reader."""
    name = header.partition(_RECIPIENT)[2].split("<")[0].split()
    return name[0] if name else None
