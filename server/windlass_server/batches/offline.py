"""A batch that runs without a server: the application and its engine, called by nobody else."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import IO

from starlette.types import ASGIApp

from windlass.async_engine import AsyncEngine
from windlass.config import EngineConfig
from windlass.errors import ConfigError, EngineError
from windlass.progress import ProgressBar
from windlass_server.access.caller import ANYONE
from windlass_server.app import create_app
from windlass_server.batches.call import run_line
from windlass_server.batches.lines import ENVELOPE_BYTES, lines_of, read_lines
from windlass_server.batches.transfer import is_url, local_input, local_output
from windlass_server.logs import configure_logging
from windlass_server.models.settings import ModelSettings
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

_REPORT_INTERVAL = 10.0


def run_batch(
    config: EngineConfig, model: ModelSettings, source: str, target: str, concurrency: int | None
) -> None:
    """Run the requests at `source` and write their results to `target`.

    Raises:
        WindlassError: the model cannot be loaded, the input cannot be read or the output not be
            written, or the engine died for good.
    """
    configure_logging("text")
    local = not is_url(source) and not is_url(target)
    if local and Path(source).resolve() == Path(target).resolve():
        raise ConfigError("the output file must not be the input file")
    with local_input(source) as path, local_output(target) as results, ProgressBar() as bar:
        asyncio.run(OfflineBatch(config, model, path, results, bar).run(concurrency))


class OfflineBatch:
    """One input, one engine, one output, whose lines come as they are finished."""

    def __init__(
        self,
        config: EngineConfig,
        model: ModelSettings,
        source: Path,
        results: IO[bytes],
        bar: ProgressBar,
    ) -> None:
        self._config = config
        self._source = source
        self._results = results
        self._bar = bar
        self._state = ServerState(ServerSettings(models=(model,)))
        self._max_line_bytes = self._state.settings.max_body_bytes + ENVELOPE_BYTES
        self._total = sum(1 for _ in read_lines(source, self._max_line_bytes))
        self._done = self._failed = 0
        self._reported = time.monotonic()

    async def run(self, concurrency: int | None) -> None:
        """Run every line, at most `concurrency` at a time.

        Raises:
            WindlassError: the model cannot be loaded, or the engine died for good.
        """
        try:
            engine = await AsyncEngine.start(self._config, self._bar.report)
            self._state.serve(engine)
            slots = asyncio.Semaphore(concurrency or engine.info.max_num_seqs)
            await self._run_all(create_app(self._state), slots)
        finally:
            await self._state.models.close()
        self._say()

    async def _run_all(self, app: ASGIApp, slots: asyncio.Semaphore) -> None:
        try:
            async with (
                asyncio.TaskGroup() as running,
                aclosing(lines_of(self._source, self._max_line_bytes)) as lines,
            ):
                async for _, data in lines:
                    await slots.acquire()
                    running.create_task(self._run_line(app, data, slots))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _run_line(self, app: ASGIApp, data: bytes, slots: asyncio.Semaphore) -> None:
        try:
            result, _ = await run_line(app, data, self._max_line_bytes, ANYONE)
            if self._state.models.default.is_down_for_good:
                raise EngineError("the engine died too often; the rest was not run")
        finally:
            slots.release()
        self._results.write(result.encode())
        self._results.flush()
        self._done += 1
        self._failed += not result.ok
        self._report()

    def _report(self) -> None:
        self._bar.report(f"{self._done} of {self._total} requests", self._done / self._total)
        if time.monotonic() - self._reported >= _REPORT_INTERVAL:
            self._reported = time.monotonic()
            self._say()

    def _say(self) -> None:
        text = f"{self._done} of {self._total} requests done, {self._failed} of them failed"
        print(text, file=sys.stderr, flush=True)
