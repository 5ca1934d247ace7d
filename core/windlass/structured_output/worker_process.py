"""The process that compiles constraints, and may die of one.

The parent writes messages to its standard input and reads answers from its standard output, in
msgpack. A task has so much processor time (a timer whose signal ends the
process) and so much memory beyond what the process began with (`RLIMIT_AS`). Nothing is computed
for a parent that is gone: the input ends then.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from windlass.config import StructuredOutputConfig
from windlass.errors import RequestError
from windlass.pipe import read_message, write_message
from windlass.request import SamplingParams
from windlass.structured_output.matcher import compile_matcher, write_constraint
from windlass.structured_output.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_NICENESS = 5
"""So that compiling gives way to serving."""


class Setup(msgspec.Struct):
    """What a worker is told first; it answers with a Verdict on the model."""

    vocabulary: Vocabulary
    limits: StructuredOutputConfig


class Verdict(msgspec.Struct):
    """Why a constraint is refused; `message` is empty for one that is accepted."""

    message: str = ""
    code: str = ""


def main() -> None:
    """Compile tasks from standard input until it ends."""
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setup = msgspec.msgpack.decode(read_message(reader), type=Setup)
    try:
        tokenizer = setup.vocabulary.build()
    except ValueError as error:
        text = f"Outputs of this model cannot be constrained: {error}."
        write_message(writer, msgspec.msgpack.encode(Verdict(text, "unsupported_parameter")))
        return
    write_message(writer, msgspec.msgpack.encode(Verdict()))
    _limit_memory(setup.limits.memory_bytes)
    while True:
        try:
            task = msgspec.msgpack.decode(read_message(reader), type=SamplingParams)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, setup.limits.cpu_seconds)
        verdict = _judge(task, tokenizer, setup.limits)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        write_message(writer, msgspec.msgpack.encode(verdict))


def _judge(task: SamplingParams, tokenizer: LLTokenizer, limits: StructuredOutputConfig) -> Verdict:
    try:
        compile_matcher(tokenizer, write_constraint(task, limits))
    except RequestError as error:
        return Verdict(error.message, error.code)
    except MemoryError:
        return Verdict(too_complex(limits), "grammar_too_complex")
    return Verdict()


def too_complex(limits: StructuredOutputConfig) -> str:
    """Return the refusal of a constraint that was stopped."""
    return (
        f"The constraint is too complex: it needs more than {limits.cpu_seconds:g} s of processor "
        f"time or {limits.memory_bytes >> 20} MiB of memory."
    )


def _limit_memory(nbytes: int) -> None:
    """Allow so much address space beyond what is in use, where that can be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return
    limit = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
