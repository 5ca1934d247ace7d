"""One SQLite file, and the one thread that uses it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from windlass.errors import WindlassError
from windlass_server.batches.records import BatchRecord, FileRecord
from windlass_server.errors import invalid_request

Result = TypeVar("Result")
Record = TypeVar("Record", FileRecord, BatchRecord)

_VERSION = 1
_TABLES: Mapping[type[msgspec.Struct], str] = {FileRecord: "files", BatchRecord: "batches"}
_RESULTS = """
CREATE TABLE results (
    batch TEXT NOT NULL, line INTEGER NOT NULL, ok INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (batch, line)
)
"""


class Database:
    """The files, the batches and the results of the lines that have run.

    What a transaction has written is on the disk when `run` returns.

    Raises:
        WindlassError: the file cannot be used, or belongs to another version of Windlass.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, "batches")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except sqlite3.Error as exc:
            self._thread.shutdown()
            raise WindlassError(f"cannot use {path}: {exc}") from exc
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in a transaction; it goes on when the caller is cancelled.

        Raises:
            sqlite3.Error: nothing was written.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, self._transact, work))

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            return work(connection)

    async def give_back(self) -> None:
        """Return some of the free pages to the file system."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, _vacuum, self._connection)

    def close(self) -> None:
        """Finish what was begun and close."""
        self._thread.submit(self._connection.close)
        self._thread.shutdown()


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection for the calling thread, in autocommit mode."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60.0)
    connection.row_factory = sqlite3.Row
    return connection


def _open(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise WindlassError(f"{path} was written by another version of Windlass")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if version == 0:
            with connection:
                _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for kind, table in _TABLES.items():
        columns = [
            f"{field.name} {'INTEGER' if _holds_int(field.type) else 'TEXT'}"
            for field in msgspec.structs.fields(kind)
            if field.name != "id"
        ]
        head = "seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE"
        connection.execute(f"CREATE TABLE {table} ({head}, {', '.join(columns)})")
    connection.execute(_RESULTS)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _holds_int(kind: object) -> bool:
    return kind in (int, int | None)


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA incremental_vacuum(10000)").fetchall()


def insert(connection: sqlite3.Connection, record: FileRecord | BatchRecord) -> None:
    """Add a row."""
    values = msgspec.structs.asdict(record)
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    table = _TABLES[type(record)]
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values)


def select(
    connection: sqlite3.Connection,
    kind: type[Record],
    where: str,
    values: Mapping[str, Any],
    rest: str = "",
) -> list[Record]:
    """Return the rows for which `where` holds; `rest` follows it."""
    rows = connection.execute(f"SELECT * FROM {_TABLES[kind]} WHERE {where} {rest}", values)
    return [msgspec.convert(dict(row), kind) for row in rows]


def page(
    connection: sqlite3.Connection,
    kind: type[Record],
    where: str,
    values: Mapping[str, Any],
    *,
    limit: int,
    after: str | None,
    ascending: bool = False,
) -> tuple[list[Record], bool]:
    """Return at most `limit` rows that come after the one with id `after`, and whether more do.

    Raises:
        ApiError: 400, there is no row `after` among them.
    """
    values = dict(values)
    if after is not None:
        known = f"SELECT seq FROM {_TABLES[kind]} WHERE {where} AND id = :after"
        row = connection.execute(known, {**values, "after": after}).fetchone()
        if row is None:
            raise invalid_request("'after' names no item.", "after", "invalid_value")
        where += f" AND seq {'>' if ascending else '<'} :seq"
        values["seq"] = row["seq"]
    order = f"ORDER BY seq {'ASC' if ascending else 'DESC'} LIMIT {limit + 1}"
    records = select(connection, kind, where, values, order)
    return records[:limit], len(records) > limit
