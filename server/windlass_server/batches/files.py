"""Files that clients uploaded or batches wrote: a row each, and the bytes in a folder."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import uuid4

from windlass_server.batches.database import Database, connect, insert, page, select
from windlass_server.batches.records import UNFINISHED, FileRecord
from windlass_server.batches.settings import BatchSettings
from windlass_server.errors import ApiError, invalid_request

_ALIVE = "(expires_at IS NULL OR expires_at > :now)"
_OWN = f"owner = :owner AND {_ALIVE}"
_IN_USE = f"SELECT 1 FROM batches WHERE input_file_id = :id AND status IN {UNFINISHED}"


class FileStore:
    """All files of a server; each is seen by its owner only, until it expires."""

    def __init__(
        self, database: Database, folder: Path, settings: BatchSettings, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._uploading = 0  # bytes of the uploads that run

    def path(self, file_id: str) -> Path:
        """Return where the bytes of a file lie that is in the database."""
        return self._folder / file_id

    def new_path(self) -> Path:
        """Return where a file is written before it is complete."""
        return self._folder / f"{uuid4().hex}.part"

    def new_record(
        self, owner: str, filename: str, purpose: str, ttl: float | None, part: Path
    ) -> FileRecord:
        """Describe the complete file at `part`, which has a name of its own from then on."""
        now = int(self._clock())
        seconds = self._settings.file_ttl if ttl is None else ttl
        return FileRecord(
            id=f"file-{uuid4().hex}",
            owner=owner,
            filename=filename,
            purpose="batch" if purpose == "batch" else "batch_output",
            bytes=part.stat().st_size,
            created_at=now,
            expires_at=now + int(seconds),
        )

    @asynccontextmanager
    async def admission(self) -> AsyncGenerator[Callable[[int], None], None]:
        """Let an upload begin; what this yields is told the bytes that come in.

        Raises:
            ApiError: 400, too much is kept already; 413, the file is too large.
        """
        kept = await self._database.run(lambda connection: self._room(connection, 0))
        size = 0

        def admit(num_bytes: int) -> None:
            nonlocal size
            size += num_bytes
            self._uploading += num_bytes
            if size > self._settings.max_file_bytes:
                raise _too_large(self._settings.max_file_bytes)
            if kept + self._uploading > self._settings.max_stored_bytes:
                raise self._full(f"{self._settings.max_stored_bytes} bytes")

        try:
            yield admit
        finally:
            self._uploading -= size

    def _room(self, connection: sqlite3.Connection, num_bytes: int) -> int:
        """Return the bytes that are kept; raises a 400 unless `num_bytes` more may be."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM files"
        count, size = connection.execute(query).fetchone()
        if count >= self._settings.max_files:
            raise self._full(f"{self._settings.max_files} files")
        if size + num_bytes > self._settings.max_stored_bytes:
            raise self._full(f"{self._settings.max_stored_bytes} bytes")
        return int(size)

    def _full(self, limit: str) -> ApiError:
        text = f"The server keeps at most {limit}: delete files that you do not need."
        return ApiError(400, text, param="file", code="storage_limit_exceeded")

    async def add(self, record: FileRecord, part: Path) -> None:
        """Keep an uploaded file; `part` is moved.

        Raises:
            ApiError: 400, too much is kept already.
        """
        await asyncio.to_thread(self.put, part, record.id)

        def work(connection: sqlite3.Connection) -> None:
            self._room(connection, record.bytes)
            insert(connection, record)

        try:
            await self._database.run(work)
        except (ApiError, sqlite3.Error):
            self.path(record.id).unlink(missing_ok=True)
            raise

    def put(self, part: Path, file_id: str) -> None:
        """Move a complete file to its place, and make sure that it stays there."""
        _sync(part)
        part.rename(self.path(file_id))
        _sync(self._folder)

    async def get(self, owner: str, file_id: str) -> FileRecord:
        """Return a file of `owner`.

        Raises:
            ApiError: 404, there is none.
        """
        values = {"owner": owner, "id": file_id, "now": self._clock()}
        found = await self._database.run(
            lambda connection: select(connection, FileRecord, f"{_OWN} AND id = :id", values)
        )
        if not found:
            raise _not_found()
        return found[0]

    async def page(
        self, owner: str, purpose: str | None, *, limit: int, after: str | None, ascending: bool
    ) -> tuple[list[FileRecord], bool]:
        """Return some of the files of `owner` by age, and whether there are more."""
        values = {"owner": owner, "purpose": purpose, "now": self._clock()}
        where = f"{_OWN} AND (:purpose IS NULL OR purpose = :purpose)"
        return await self._database.run(
            lambda connection: page(
                connection,
                FileRecord,
                where,
                values,
                limit=limit,
                after=after,
                ascending=ascending,
            )
        )

    async def delete(self, owner: str, file_id: str) -> None:
        """Delete a file of `owner`.

        Raises:
            ApiError: 404, there is none; 400, a batch needs it.
        """
        values = {"owner": owner, "id": file_id, "now": self._clock()}

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_IN_USE, values).fetchone() is not None:
                text = "A batch reads this file: cancel the batch first."
                raise invalid_request(text, "file_id", "file_in_use")
            connection.execute(f"DELETE FROM files WHERE {_OWN} AND id = :id", values)

        await self.get(owner, file_id)
        await self._database.run(work)
        self.path(file_id).unlink(missing_ok=True)

    async def delete_expired(self) -> None:
        """Delete what has expired; what an unfinished batch reads stays until it ends."""
        used = f"SELECT input_file_id FROM batches WHERE status IN {UNFINISHED}"
        query = f"DELETE FROM files WHERE NOT {_ALIVE} AND id NOT IN ({used}) RETURNING id"
        values = {"now": self._clock()}
        gone = await self._database.run(
            lambda connection: connection.execute(query, values).fetchall()
        )
        for row in gone:
            self.path(row["id"]).unlink(missing_ok=True)

    def delete_orphans(self) -> None:
        """Delete bytes without a row, which a server left behind that was killed.

        Nothing else may use the folder meanwhile.
        """
        with closing(connect(self._database.path)) as connection:
            known = {row["id"] for row in connection.execute("SELECT id FROM files")}
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _too_large(limit: int) -> ApiError:
    text = f"The file is larger than {limit} bytes."
    return ApiError(413, text, param="file", code="file_too_large")


def _not_found() -> ApiError:
    text = "There is no such file; it may have expired."
    return ApiError(404, text, param="file_id", code="file_not_found")
