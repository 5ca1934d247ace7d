"""`windlass conformance NAME`: prove that a backend does what the contract says."""

from __future__ import annotations

import argparse
from pathlib import Path

from windlass.errors import ConfigError

HELP = "prove that a hardware backend does what the plugin contract says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass conformance`."""
    from windlass.testing.conformance import DEFAULT_LEVELS, LEVELS

    parser.add_argument("name", help="the backend")
    parser.add_argument(
        "--level",
        nargs="+",
        choices=list(LEVELS),
        default=list(DEFAULT_LEVELS),
        help="what to check: "
        + ", ".join(f"{level} {subject}" for level, subject in LEVELS.items())
        + f" (default: {DEFAULT_LEVELS[0]} to {DEFAULT_LEVELS[-1]})",
    )
    parser.add_argument(
        "--provider", nargs="+", default=[], help="check these op providers alone in L2"
    )
    parser.add_argument("--json", metavar="FILE", help="write every outcome as JSON")
    parser.add_argument(
        "--plugin", metavar="MODULE", default="", help="the module of a plugin not installed"
    )


def run(args: argparse.Namespace) -> int:
    """Run the levels and print the report; 0 when something ran and nothing failed, else 1."""
    from windlass.testing.conformance import Target, prove
    from windlass.testing.conformance.report import print_report

    report = prove(Target(args.name, args.plugin), args.level, providers=args.provider)
    if args.json:
        try:
            Path(args.json).write_text(report.to_json() + "\n")
        except OSError as error:
            raise ConfigError(f"--json: {args.json} cannot be written: {error}") from error
    print_report(report)
    return 0 if report.proven else 1
