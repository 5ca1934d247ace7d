"""The output and error files of a batch that has ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from windlass_server.batches.call import faulty
from windlass_server.batches.database import Database, connect
from windlass_server.batches.files import FileStore
from windlass_server.batches.lines import LineFault, custom_id_of, read_lines
from windlass_server.batches.records import BatchRecord, FileRecord

_EXPIRED = LineFault(
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)


def write_outputs(
    database: Database,
    files: FileStore,
    batch: BatchRecord,
    max_line_bytes: int,
    *,
    expired: bool,
) -> dict[str, FileRecord]:
    """Write what lies in the database to files; returns them under "output" and "error".

    The lines are in the order of the input. Of an `expired` batch the error file also has the lines
    that did not run. Blocks: it is called in a thread.
    """
    written = {}
    with closing(connect(database.path)) as connection:
        for name, ok in (("output", True), ("error", False)):
            lines = _results(connection, batch.id, ok=ok)
            if expired and not ok:
                lines = _with_expired(connection, files, batch, max_line_bytes)
            record = _write(files, batch, name, lines)
            if record is not None:
                written[name] = record
    return written


def _results(connection: sqlite3.Connection, batch: str, *, ok: bool) -> Iterator[bytes]:
    query = "SELECT data FROM results WHERE batch = ? AND ok = ? ORDER BY line"
    for row in connection.execute(query, (batch, int(ok))):
        yield row["data"]


def _write(
    files: FileStore, batch: BatchRecord, name: str, lines: Iterator[bytes]
) -> FileRecord | None:
    part = files.new_path()
    with part.open("xb") as target:
        target.writelines(lines)
    if not part.stat().st_size:
        part.unlink()
        return None
    filename = f"{batch.id}_{name}.jsonl"
    record = files.new_record(batch.owner, filename, "batch_output", batch.output_ttl, part)
    files.put(part, record.id)
    return record


def _with_expired(
    connection: sqlite3.Connection, files: FileStore, batch: BatchRecord, max_line_bytes: int
) -> Iterator[bytes]:
    """Yield the results of lines that failed, and one for each line that has none."""
    query = "SELECT ok, data FROM results WHERE batch = ? AND line = ?"
    for number, line in read_lines(files.path(batch.input_file_id), max_line_bytes):
        row = connection.execute(query, (batch.id, number)).fetchone()
        if row is None:
            yield faulty(custom_id_of(line), _EXPIRED).encode()
        elif not row["ok"]:
            yield row["data"]
