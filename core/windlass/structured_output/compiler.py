"""The front end's judge of constraints: off the event loop, in processes that can be killed.

A constraint that is broken, too complex or deadly costs its own request a refusal and nobody else
anything. What was found is remembered by the constraint's hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from windlass.config import StructuredOutputConfig
from windlass.errors import EngineDeadError, QueueFullError, RequestError
from windlass.pipe import read_message, write_message
from windlass.request import SamplingParams
from windlass.structured_output.matcher import constraint_key, is_constrained
from windlass.structured_output.vocabulary import Vocabulary
from windlass.structured_output.worker_process import (
    Setup,
    Verdict,
    too_complex,
)

MAX_WAITING = 1024
"""Constraints that wait to be compiled, before more are turned away."""

_ENTRY_BYTES = 256
"""What a remembered result takes beside its text."""

_ATTEMPTS = 2
_DIED = "died"
"""Code of a verdict that is not remembered: the process may have been killed by anybody."""

_CLOSED = "the engine is shutting down"

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; "
    "from windlass.structured_output.worker_process import main; main()"
)
_ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class GrammarCompiler:
    """Judges constraints for one model. The first one starts a worker process."""

    def __init__(
        self, vocabulary: Callable[[], Vocabulary], limits: StructuredOutputConfig
    ) -> None:
        self._limits = limits
        self._verdicts = _Verdicts(limits.cache_bytes)
        self._closed = False
        self._running: dict[bytes, asyncio.Future[Verdict]] = {}
        self._workers = [_Worker(vocabulary, limits) for _ in range(limits.num_workers)]
        self._free = list(self._workers)
        self._pool = ThreadPoolExecutor(limits.num_workers, thread_name_prefix="windlass-compile")

    async def check(self, sampling: SamplingParams) -> None:
        """Return when what constrains the request is known to be kept to.

        Raises:
            RequestError: it cannot be kept to, or is too complex; the text says why.
            QueueFullError: too many wait to be compiled.
            EngineDeadError: this was closed.
        """
        if not is_constrained(sampling):
            return
        key = constraint_key(sampling)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await self._wait(self._shared(key, sampling))
            if self._closed and verdict.code == _DIED:
                raise EngineDeadError(_CLOSED)
        if verdict.message:
            param = "bad_words" if sampling.bad_words else "structured_outputs"
            code = "grammar_too_complex" if verdict.code == _DIED else verdict.code
            raise RequestError(verdict.message, param=param, code=code)

    async def _wait(self, running: asyncio.Future[Verdict]) -> Verdict:
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if running.cancelled():
                raise EngineDeadError(_CLOSED) from None
            raise

    def _shared(self, key: bytes, sampling: SamplingParams) -> asyncio.Future[Verdict]:
        """The judgement of this constraint, which other requests may be waiting for already."""
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MAX_WAITING:
                raise QueueFullError("Too many constraints wait to be compiled.")
            if self._closed:
                raise EngineDeadError(_CLOSED)
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._judge, sampling)
            self._running[key] = running
            running.add_done_callback(lambda done: self._judged(key, done))
        return running

    def _judged(self, key: bytes, done: asyncio.Future[Verdict]) -> None:
        del self._running[key]
        if not done.cancelled() and done.exception() is None and done.result().code != _DIED:
            self._verdicts.put(key, done.result())

    def _judge(self, sampling: SamplingParams) -> Verdict:
        # There are as many workers as threads, so one is free.
        worker = self._free.pop()
        try:
            return worker.judge(sampling)
        finally:
            self._free.append(worker)

    def close(self) -> None:
        """End the processes, and the judgements that run."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()


class _Verdicts:
    """Remembered results, the least recently used forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()

    def get(self, key: bytes) -> Verdict | None:
        verdict = self._kept.get(key)
        if verdict is not None:
            self._kept.move_to_end(key)
        return verdict

    def put(self, key: bytes, verdict: Verdict) -> None:
        if key not in self._kept:
            self._size += _ENTRY_BYTES + len(verdict.message)
        self._kept[key] = verdict
        while self._size > self._limit and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._size -= _ENTRY_BYTES + len(oldest.message)


class _Worker:
    """A process, started when it is needed, again after it died."""

    def __init__(
        self, vocabulary: Callable[[], Vocabulary], limits: StructuredOutputConfig
    ) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def judge(self, sampling: SamplingParams) -> Verdict:
        """Judge in the calling thread."""
        data = msgspec.msgpack.encode(sampling)
        for _ in range(_ATTEMPTS):
            process = self._process
            if process is None or process.poll() is not None:
                refusal = self._start()
                if refusal is not None:
                    return refusal
                process = self._process
            assert process is not None
            assert process.stdin is not None
            try:
                write_message(process.stdin, data)
            except OSError:  # it died before it knew of this: that is no fault of the constraint
                process.wait()
                continue
            return self._answer(process)
        return Verdict(too_complex(self._limits), _DIED)

    def _answer(self, process: subprocess.Popen[bytes]) -> Verdict:
        assert process.stdout is not None
        try:
            # Other work may keep the process from its time: the wait is longer than the limit.
            if not _readable(process.stdout.fileno(), 10.0 + 6.0 * self._limits.cpu_seconds):
                process.kill()
            return msgspec.msgpack.decode(read_message(process.stdout), type=Verdict)
        except (EOFError, OSError):
            return self._died(process)

    def _start(self) -> Verdict | None:
        """Start the process; returns why it refuses everything, if it does."""
        setup = Setup(self._vocabulary(), self._limits)
        command = [sys.executable, "-I", "-c", _PROGRAM.format(path=sys.path)]
        with self._lock:
            if self._closed:
                return Verdict(_CLOSED, _DIED)
            self.end()
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_message(process.stdin, msgspec.msgpack.encode(setup))
            answer = msgspec.msgpack.decode(read_message(process.stdout), type=Verdict)
        except (EOFError, OSError):
            return self._died(process)
        return answer if answer.message else None

    def _died(self, process: subprocess.Popen[bytes]) -> Verdict:
        """A constraint that the process died of; only what surely was its fault is remembered."""
        status = process.wait()
        sure = status in (-signal.SIGPROF, -signal.SIGABRT)
        return Verdict(too_complex(self._limits), "grammar_too_complex" if sure else _DIED)

    def end(self) -> None:
        """Kill and reap the process and close its pipes; no judgement may be running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def kill(self) -> None:
        """Kill the process for good; a judgement that runs ends with it."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()


def _readable(descriptor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * timeout))
