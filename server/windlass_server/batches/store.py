"""The batches, and the results of their lines until they stand in an output file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from windlass_server.batches.call import TokenCounts
from windlass_server.batches.database import Database, insert, page, select
from windlass_server.batches.records import UNFINISHED, BatchRecord, FileRecord, Status
from windlass_server.batches.settings import BatchSettings
from windlass_server.errors import ApiError, invalid_request

_OWN = "owner = :owner AND id = :id"
_COUNT = f"SELECT count(*) FROM batches WHERE status IN {UNFINISHED}"
_ADD_RESULT = """
INSERT OR IGNORE INTO results (batch, line, ok, data) VALUES (:id, :line, :ok, :data)
"""
_COUNT_RESULT = """
UPDATE batches SET
    completed = completed + :ok, failed = failed + 1 - :ok,
    input_tokens = input_tokens + :input_tokens, cached_tokens = cached_tokens + :cached_tokens,
    output_tokens = output_tokens + :output_tokens,
    reasoning_tokens = reasoning_tokens + :reasoning_tokens
WHERE id = :id
"""
KEPT_BATCHES = 10_000
"""Batches that are remembered, ended ones included; the oldest go first."""


class BatchStore:
    """All batches of a server; each is seen by its owner only."""

    def __init__(
        self, database: Database, settings: BatchSettings, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    def _now(self) -> int:
        return int(self._clock())

    async def create(self, record: BatchRecord) -> None:
        """Queue a batch.

        Raises:
            ApiError: 400, there is no such input file; 429, too many batches are queued.
        """
        values = {"id": record.input_file_id, "owner": record.owner, "now": self._clock()}
        alive = f"{_OWN} AND purpose = 'batch' AND expires_at > :now"

        def work(connection: sqlite3.Connection) -> None:
            if not select(connection, FileRecord, alive, values):
                text = "'input_file_id' names no file of purpose batch."
                raise invalid_request(text, "input_file_id", "file_not_found")
            (queued,) = connection.execute(_COUNT).fetchone()
            if queued >= self._settings.max_batches:
                raise _too_many(self._settings.max_batches)
            insert(connection, record)

        await self._database.run(work)

    async def get(self, owner: str, batch_id: str) -> BatchRecord:
        """Return a batch of `owner`.

        Raises:
            ApiError: 404, there is none.
        """
        return await self._database.run(lambda connection: _get(connection, owner, batch_id))

    async def page(
        self, owner: str, *, limit: int, after: str | None
    ) -> tuple[list[BatchRecord], bool]:
        """Return some of the batches of `owner`, newest first, and whether there are more."""
        values = {"owner": owner}
        return await self._database.run(
            lambda connection: page(
                connection, BatchRecord, "owner = :owner", values, limit=limit, after=after
            )
        )

    async def unfinished(self) -> list[BatchRecord]:
        """Return what has not ended, oldest first."""
        where = f"status IN {UNFINISHED}"
        return await self._database.run(
            lambda connection: select(connection, BatchRecord, where, {}, "ORDER BY seq")
        )

    async def begin(self, batch_id: str, total: int, model: str) -> BatchRecord:
        """Note that the input is right; a batch that was cancelled meanwhile stays so."""
        return await self._change(
            batch_id,
            ("validating",),
            status="in_progress",
            in_progress_at=self._now(),
            total=total,
            model=model,
        )

    async def finalize(self, batch_id: str) -> BatchRecord:
        """Note that nothing runs any more; a batch that was cancelled meanwhile stays so."""
        return await self._change(
            batch_id, ("in_progress",), status="finalizing", finalizing_at=self._now()
        )

    async def _change(
        self, batch_id: str, allowed: Sequence[Status], **values: str | int
    ) -> BatchRecord:
        return await self._database.run(
            lambda connection: _change(connection, batch_id, allowed, values)
        )

    async def cancel(self, owner: str, batch_id: str) -> BatchRecord:
        """Ask for the end of a batch of `owner`.

        Raises:
            ApiError: 404, there is none; 400, it has ended.
        """

        def work(connection: sqlite3.Connection) -> BatchRecord:
            record = _get(connection, owner, batch_id)
            if record.status == "cancelling":
                return record
            if record.status not in ("validating", "in_progress"):
                text = f"A batch with status '{record.status}' cannot be cancelled."
                raise invalid_request(text, "batch_id", "invalid_status")
            values = {"status": "cancelling", "cancelling_at": self._now()}
            return _change(connection, batch_id, UNFINISHED, values)

        return await self._database.run(work)

    async def add_result(
        self, batch_id: str, line: int, ok: bool, data: bytes, tokens: TokenCounts
    ) -> None:
        """Keep and count the result of a line, unless there is one already."""
        values = {
            "id": batch_id,
            "line": line,
            "ok": int(ok),
            "data": data,
            **msgspec.structs.asdict(tokens),
        }

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_ADD_RESULT, values).rowcount:
                connection.execute(_COUNT_RESULT, values)

        await self._database.run(work)

    async def lines_done(self, batch_id: str) -> set[int]:
        """Return the numbers of the lines that have a result."""
        query = "SELECT line FROM results WHERE batch = ?"
        rows = await self._database.run(
            lambda connection: connection.execute(query, (batch_id,)).fetchall()
        )
        return {row["line"] for row in rows}

    async def finish(
        self, batch_id: str, status: Status, files: Sequence[FileRecord], **values: str
    ) -> None:
        """End a batch: its files are there, and its results need not be kept any more."""

        def work(connection: sqlite3.Connection) -> None:
            for file in files:
                insert(connection, file)
            changes = {"status": status, f"{status}_at": self._now(), **values}
            _change(connection, batch_id, UNFINISHED, changes)
            connection.execute("DELETE FROM results WHERE batch = ?", (batch_id,))

        await self._database.run(work)
        await self._database.give_back()

    async def forget_old(self) -> None:
        """Forget what ended long ago."""
        query = f"""
        DELETE FROM batches WHERE status NOT IN {UNFINISHED} AND (
            expires_at < :before OR seq NOT IN (SELECT seq FROM batches ORDER BY seq DESC LIMIT :n)
        )
        """
        values = {"before": self._clock() - self._settings.file_ttl, "n": KEPT_BATCHES}
        await self._database.run(lambda connection: connection.execute(query, values))


def _get(connection: sqlite3.Connection, owner: str, batch_id: str) -> BatchRecord:
    found = select(connection, BatchRecord, _OWN, {"owner": owner, "id": batch_id})
    if not found:
        raise ApiError(404, "There is no such batch.", param="batch_id", code="batch_not_found")
    return found[0]


def _change(
    connection: sqlite3.Connection,
    batch_id: str,
    allowed: Sequence[Status],
    values: dict[str, Any],
) -> BatchRecord:
    """Set columns of a batch with one of the `allowed` statuses; returns the batch as it is."""
    changes = ", ".join(f"{name} = :{name}" for name in values)
    statuses = ", ".join(f"'{status}'" for status in allowed)
    query = f"UPDATE batches SET {changes} WHERE id = :id AND status IN ({statuses})"
    connection.execute(query, {**values, "id": batch_id})
    (record,) = select(connection, BatchRecord, "id = :id", {"id": batch_id})
    return record


def _too_many(limit: int) -> ApiError:
    text = f"{limit} batches wait or run already; try again when one has ended."
    return ApiError(429, text, type="rate_limit_error", code="batch_limit_exceeded")
