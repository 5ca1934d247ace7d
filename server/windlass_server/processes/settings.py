"""The setting of several API processes, and its flag.

Imported to show help, so nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from windlass.errors import ConfigError

MAX_PROCESSES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """How many processes answer HTTP. With one, the process that does so owns the engine too."""

    api_server_count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.api_server_count <= MAX_PROCESSES:
            raise ConfigError(
                f"api_server_count must be from 1 to {MAX_PROCESSES}, not {self.api_server_count}"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag of `ProcessSettings`."""
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--api-server-count",
        type=int,
        default=1,
        metavar="N",
        help="processes that answer HTTP, all on one engine",
    )


def from_arguments(args: argparse.Namespace) -> ProcessSettings:
    """Make the settings from parsed flags; raises ConfigError when the value is out of range."""
    return ProcessSettings(api_server_count=args.api_server_count)
