"""Flags of files and batches, and folders that cannot be used."""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from windlass.errors import ConfigError, WindlassError
from windlass_server.batches.service import Batches
from windlass_server.batches.settings import BatchSettings, add_arguments, from_arguments


def parse(*words: str) -> BatchSettings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(words))


def test_without_flags_the_settings_are_the_defaults() -> None:
    assert parse() == BatchSettings()


def test_flags_become_settings() -> None:
    settings = parse(
        *("--batch-dir", "folder", "--max-file-bytes", "1", "--max-files", "2"),
        *("--max-stored-file-bytes", "3", "--file-ttl", "4.5", "--max-batch-lines", "5"),
        *("--max-batches", "6", "--batch-concurrency", "7"),
    )
    assert settings == BatchSettings(
        directory="folder",
        max_file_bytes=1,
        max_files=2,
        max_stored_bytes=3,
        file_ttl=4.5,
        max_lines=5,
        max_batches=6,
        concurrency=7,
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--max-file-bytes",
        "--max-files",
        "--max-stored-file-bytes",
        "--file-ttl",
        "--max-batch-lines",
        "--max-batches",
        "--batch-concurrency",
    ],
)
def test_a_limit_is_above_0(flag: str) -> None:
    parse(flag, "1")
    with pytest.raises(ConfigError, match="must be above 0, not 0"):
        parse(flag, "0")


def test_a_folder_is_made_for_its_owner_only_and_used_by_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = Batches(str(folder), BatchSettings())
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(WindlassError, match="another server uses"):
        Batches(str(folder), BatchSettings())
    first.close()
    Batches(str(folder), BatchSettings()).close()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WindlassError, match=r"cannot use --batch-dir .*/file"):
        Batches(str(tmp_path / "file"), BatchSettings())


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "batches.sqlite3"
    for content, text in ((b"something else" * 100, "not a database"), (None, "another version")):
        if content is not None:
            database.write_bytes(content)
        else:
            database.unlink()
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA user_version = 99")
        before = database.read_bytes()
        for _ in range(2):  # a refusal gives the folder back
            with pytest.raises(WindlassError, match=text):
                Batches(str(tmp_path), BatchSettings())
        assert database.read_bytes() == before
