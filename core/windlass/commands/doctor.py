"""`windlass doctor`: which backends and ops can be used here, and why the others cannot."""

from __future__ import annotations

import argparse

HELP = "show which hardware backends and ops can be used here, and why others cannot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass doctor`."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--backend", default="auto", help="check this backend (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when the backend asked for can be used, else 2."""
    from windlass.plugin import doctor

    return doctor.run(json=args.json, backend=args.backend)
