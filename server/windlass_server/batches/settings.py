"""The settings of files and batches, and their flags."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from windlass.errors import ConfigError

MIB = 1024 * 1024
DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Where files and batches are kept, and how much of them; without `directory` there are none.

    A file has at most `max_file_bytes`. At most `max_files` with `max_stored_bytes` together are
    kept, each for `file_ttl` seconds unless its request says otherwise. A batch has at most
    `max_lines` requests; `max_batches` wait or run at a time, and `concurrency` of their requests.
    """

    directory: str | None = None
    max_file_bytes: int = 200 * MIB
    max_files: int = 10_000
    max_stored_bytes: int = 64 * 1024 * MIB
    file_ttl: float = 30 * DAY
    max_lines: int = 50_000
    max_batches: int = 100
    concurrency: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "directory" and getattr(self, field.name) <= 0:
                raise ConfigError(f"{field.name} must be above 0, not {getattr(self, field.name)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of files and batches."""
    group = parser.add_argument_group("files and batches")
    group.add_argument(
        "--batch-dir",
        metavar="DIR",
        help="keep files and batches here; without it /v1/files and /v1/batches answer 404",
    )
    default = BatchSettings()
    for flag, value, text in (
        ("--max-file-bytes", default.max_file_bytes, "bytes of an uploaded file"),
        ("--max-files", default.max_files, "files kept"),
        ("--max-stored-file-bytes", default.max_stored_bytes, "bytes of all kept files"),
        ("--max-batch-lines", default.max_lines, "requests of a batch"),
        ("--max-batches", default.max_batches, "batches that wait or run at a time"),
        ("--batch-concurrency", default.concurrency, "requests of batches that run at a time"),
    ):
        group.add_argument(flag, type=int, default=value, metavar="N", help=text)
    group.add_argument(
        "--file-ttl",
        type=float,
        default=default.file_ttl,
        metavar="SECONDS",
        help="how long a file is kept unless its request says otherwise",
    )


def from_arguments(args: argparse.Namespace) -> BatchSettings:
    """Make the settings from parsed flags.

    Raises:
        ConfigError: a value is out of range.
    """
    return BatchSettings(
        directory=args.batch_dir,
        max_file_bytes=args.max_file_bytes,
        max_files=args.max_files,
        max_stored_bytes=args.max_stored_file_bytes,
        file_ttl=args.file_ttl,
        max_lines=args.max_batch_lines,
        max_batches=args.max_batches,
        concurrency=args.batch_concurrency,
    )
