"""`windlass conformance NAME`: prove that a backend does what the contract says."""

from __future__ import annotations

import argparse
from pathlib import Path

from windlass.errors import ConfigError

HELP = "prove that a hardware backend does what the plugin contract says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass conformance`."""
    from windlass.testing.conformance import DEFAULT_LEVELS, INTERPRETED_LEVELS, LEVELS
    from windlass.testing.conformance.run import SHARED_LEVELS

    parser.add_argument("name", help="the backend")
    parser.add_argument(
        "--level",
        nargs="+",
        choices=list(LEVELS),
        help="what to check: "
        + ", ".join(f"{level} {subject}" for level, subject in LEVELS.items())
        + f" (default: {DEFAULT_LEVELS[0]} to {DEFAULT_LEVELS[-1]})",
    )
    parser.add_argument(
        "--provider", nargs="+", default=[], help="check these op providers alone in L2"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="what a level, or an op provider in L2, may take (default: 600; 3600 where kernels "
        "are compiled or interpreted)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help=f"processes that share the cases of {', '.join(SHARED_LEVELS)} (default: 1)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every outcome as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page that a browser shows")
    parser.add_argument(
        "--plugin", metavar="MODULE", default="", help="the module of a plugin not installed"
    )
    parser.add_argument(
        "--interpret",
        metavar="ARCH",
        default="",
        help="run the kernels on the host, in Triton's interpreter, as they are launched on ARCH "
        f"(levels {' and '.join(INTERPRETED_LEVELS)})",
    )


def run(args: argparse.Namespace) -> int:
    """Run the levels and print the report; 0 when something ran and nothing failed, else 1."""
    from windlass.testing.conformance import DEFAULT_LEVELS, INTERPRETED_LEVELS, Target, prove
    from windlass.testing.conformance.report import print_report

    levels = args.level or (INTERPRETED_LEVELS if args.interpret else DEFAULT_LEVELS)
    target = Target(args.name, args.plugin, args.interpret, args.jobs)
    report = prove(target, levels, providers=args.provider, timeout=args.timeout)
    if args.json:
        _write("--json", args.json, report.to_json())
    if args.html:
        from windlass.testing.conformance.html_report import to_html

        _write("--html", args.html, to_html(report))
    print_report(report)
    return 0 if report.proven else 1


def _write(option: str, file: str, text: str) -> None:
    try:
        Path(file).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: {file} cannot be written: {error}") from error
