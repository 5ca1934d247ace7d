"""Runs the lines of batches in the time that online requests leave."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from asyncio import FIRST_COMPLETED
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec
from starlette.types import ASGIApp

from windlass_server.access.caller import Caller
from windlass_server.batches.call import ResultLine, TokenCounts, run_line
from windlass_server.batches.lines import ENVELOPE_BYTES, lines_of
from windlass_server.batches.output import write_outputs
from windlass_server.batches.records import BatchRecord, Status
from windlass_server.batches.validation import BatchFault, validate
from windlass_server.errors import ApiError
from windlass_server.protocol.batches import BatchError

if TYPE_CHECKING:
    from windlass_server.batches.service import Batches
    from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

_POLL = 0.02
_HOUSEKEEPING = 30.0
_DISK_RETRY = 1.0


def is_quiet(state: ServerState, model_name: str | None) -> bool:
    """Return whether online requests leave room for one more line for this model."""
    try:
        state.require_serving()
    except ApiError:
        return False
    try:
        model = state.models.find(model_name)
    except ApiError:
        return True  # it is not served any more: the line is answered with that
    if model.asleep:
        return False
    engine = model.engine
    if engine is None:
        return not any(other.in_use for other in state.models.loaded)
    waiting = engine.stats().num_waiting + state.access.queue_of(model, engine).waiting
    return engine.is_ready and not waiting


def caller_of(state: ServerState, owner: str) -> Caller:
    """Return the holder of a key; when the key is gone, somebody who owns the same things."""
    known = (caller for caller in state.access.keys.callers if caller.owner == owner)
    return next(known, Caller("", owner))


class BatchWorker:
    """Drives every batch from its validation to its output files."""

    def __init__(self, batches: Batches, app: ASGIApp, state: ServerState) -> None:
        self._batches = batches
        self._app = app
        self._state = state
        self._max_line_bytes = state.settings.max_body_bytes + ENVELOPE_BYTES
        self._slots = asyncio.Semaphore(batches.settings.concurrency)
        self._turns: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._drivers: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Work until cancelled; what runs then is run again by the next server."""
        try:
            while True:
                try:
                    await self._look_around()
                except Exception:
                    logger.exception("The folder of the batches cannot be used now")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HOUSEKEEPING):
                        await self._batches.wait_for_news()
        finally:
            drivers = list(self._drivers.values())
            for driver in drivers:
                driver.cancel()
            await asyncio.gather(*drivers, return_exceptions=True)

    async def _look_around(self) -> None:
        """Take up what is new and delete what is old."""
        for record in await self._batches.store.unfinished():
            if record.id not in self._drivers:
                self._drivers[record.id] = asyncio.create_task(self._drive(record))
        await self._batches.files.delete_expired()
        await self._batches.store.forget_old()

    async def _drive(self, record: BatchRecord) -> None:
        """Bring one batch to its end; when that cannot be written down, leave it for later."""
        try:
            await self._finish(*await self._outcome(record))
        except Exception:
            logger.exception("The batch %s has to wait", record.id)
            await asyncio.sleep(_DISK_RETRY)
        finally:
            del self._drivers[record.id]
            self._batches.ended(record.id)

    async def _outcome(self, record: BatchRecord) -> tuple[BatchRecord, Status, list[BatchError]]:
        """Run a batch as far as it goes; return it, its last status and what is wrong with it.

        Raises:
            sqlite3.Error, OSError: the folder cannot be used now.
        """
        try:
            if record.status == "validating":
                record = await self._validate(record)
            if record.status == "in_progress":
                await self._run_lines(record)
                record = await self._batches.store.finalize(record.id)
        except BatchFault as fault:
            return record, "failed", fault.errors
        except FileNotFoundError:
            error = BatchError("input_file_missing", "The input file is not there any more.")
            return record, "failed", [error]
        except (sqlite3.Error, OSError):
            raise
        except Exception:
            logger.exception("The batch %s failed", record.id)
            message = "The server failed on this batch; its log says why."
            return record, "failed", [BatchError("internal_error", message)]
        if record.cancelling_at is not None:
            return record, "cancelled", []
        whole = record.completed + record.failed == record.total
        return record, "completed" if whole else "expired", []

    async def _validate(self, record: BatchRecord) -> BatchRecord:
        found = await asyncio.to_thread(
            validate,
            self._batches.files.path(record.input_file_id),
            record.endpoint,
            max_lines=self._batches.settings.max_lines,
            max_line_bytes=self._max_line_bytes,
            require_model=self._state.models.find,
        )
        return await self._batches.store.begin(record.id, found.total, found.model)

    async def _run_lines(self, record: BatchRecord) -> None:
        """Run the lines that have no result, until the batch is cancelled or expires."""
        running = asyncio.create_task(self._run_all(record))
        stop = asyncio.create_task(self._batches.wait_for_stop(record.id))
        seconds = max(0.0, record.expires_at - self._batches.clock())
        try:
            await asyncio.wait((running, stop), timeout=seconds, return_when=FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            for task in (running, stop):
                task.cancel()
            await asyncio.gather(running, stop, return_exceptions=True)

    async def _run_all(self, record: BatchRecord) -> None:
        done = await self._batches.store.lines_done(record.id)
        caller = caller_of(self._state, record.owner)
        source = lines_of(self._batches.files.path(record.input_file_id), self._max_line_bytes)
        try:
            async with asyncio.TaskGroup() as running, aclosing(source) as lines:
                async for number, data in lines:
                    if number not in done:
                        await self._take_slot(record)
                        running.create_task(self._run_line(record, number, data, caller))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _take_slot(self, record: BatchRecord) -> None:
        """Wait for a free place in a quiet moment; the batches of a model take turns."""
        async with self._turns[record.model]:
            await self._slots.acquire()
            while not is_quiet(self._state, record.model):
                self._slots.release()  # to the lines of other models
                await asyncio.sleep(_POLL)
                await self._slots.acquire()

    async def _run_line(
        self, record: BatchRecord, number: int, data: bytes, caller: Caller
    ) -> None:
        has_slot = True

        async def pause(seconds: float) -> None:
            nonlocal has_slot
            if not self._state.models.find(record.model).asleep:
                await asyncio.sleep(seconds)
                return
            self._slots.release()  # to the lines of other models, until it is woken
            has_slot = False
            await self._take_slot(record)
            has_slot = True

        try:
            result, tokens = await run_line(self._app, data, self._max_line_bytes, caller, pause)
            await self._keep(record, number, result, tokens)
        finally:
            if has_slot:
                self._slots.release()

    async def _keep(
        self, record: BatchRecord, number: int, result: ResultLine, tokens: TokenCounts
    ) -> None:
        """Put a result on the disk; while that is full, wait."""
        data = result.encode()
        while True:
            try:
                await self._batches.store.add_result(record.id, number, result.ok, data, tokens)
                self._state.metrics.batch_lines["completed" if result.ok else "failed"].inc()
                return
            except sqlite3.OperationalError as exc:
                logger.error("A result has to wait: %s", exc)
                await asyncio.sleep(_DISK_RETRY)

    async def _finish(
        self, record: BatchRecord, status: Status, errors: Sequence[BatchError]
    ) -> None:
        """Write the output files of a batch of which nothing runs any more."""
        files = await asyncio.to_thread(
            write_outputs,
            self._batches.database,
            self._batches.files,
            record,
            self._max_line_bytes,
            expired=status == "expired",
        )
        values = {f"{name}_file_id": file.id for name, file in files.items()}
        if errors:
            values["errors"] = msgspec.json.encode(errors).decode()
        await self._batches.store.finish(record.id, status, list(files.values()), **values)
