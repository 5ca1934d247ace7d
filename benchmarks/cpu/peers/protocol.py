"""What the script and its worker processes say to each other: one JSON object a line.

A request is `{"command": name, ...}`, an answer `{"ok": true, ...}` or `{"ok": false, "error":
text}`. Only the standard library is imported: every environment can run this.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to load an engine. `threads` run on `cpus`; the KV cache holds `kv_tokens`."""

    model: str
    precision: str
    threads: int
    cpus: list[int]
    max_model_len: int
    max_num_seqs: int
    kv_tokens: int
    kv_bytes: int

    @property
    def kv_gib(self) -> int:
        """Size of the KV cache, for the engines that count in whole GiB."""
        return -(-self.kv_bytes // 2**30)


@dataclass(frozen=True)
class Batch:
    """Requests that are submitted at once; the first `shared_prefix` tokens of all are the same."""

    prompts: list[list[int]]
    output_lens: list[int]
    shared_prefix: int = 0


@dataclass(frozen=True)
class Timings:
    """Per request, seconds from the submission to the first token and to the last one."""

    first: list[float]
    end: list[float]
    counts: list[int]


class Engine(Protocol):
    """What a worker serves."""

    def prepare(self, settings: Settings) -> None:
        """Write the files that the engine loads, unless they are there."""

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load the model; return what a reader of the figures should know."""

    def run(self, batch: Batch) -> Timings:
        """Answer the requests greedily, each with exactly its number of output tokens."""


@dataclass
class Stopwatch:
    """Collects the timings of a batch while an engine brings forth tokens."""

    size: int
    start: float = field(default_factory=time.perf_counter)
    first: list[float] = field(init=False)
    end: list[float] = field(init=False)
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.first = [0.0] * self.size
        self.end = [0.0] * self.size
        self.counts = [0] * self.size

    def tokens(self, index: int, count: int) -> None:
        """Note that a request got `count` more tokens now."""
        now = time.perf_counter() - self.start
        if count and not self.counts[index]:
            self.first[index] = now
        self.counts[index] += count
        self.end[index] = now

    def timings(self) -> Timings:
        """What was collected."""
        return Timings(self.first, self.end, self.counts)


def serve_engine(engine: Engine) -> None:
    """Answer the script's requests until it closes the pipe."""

    def prepare(request: Message) -> Message:
        engine.prepare(Settings(**request))
        return {}

    def load(request: Message) -> Message:
        start = time.perf_counter()
        notes = engine.load(Settings(**request))
        return {"load_seconds": time.perf_counter() - start, "notes": dict(notes)}

    def run(request: Message) -> Message:
        return asdict(engine.run(Batch(**request)))

    serve({"prepare": prepare, "load": load, "run": run})


def serve(handlers: Mapping[str, Callable[[Message], Message]]) -> None:
    """Answer requests from stdin; whatever else the process prints goes to stderr, the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": True, **handlers[request.pop("command")](request)}
        except Exception as error:  # noqa: BLE001 - the script reports it and goes on
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
