"""Whether Windlass computes on this device what transformers computes.

Small seeded models; greedy tokens are compared in fp32, log-probabilities in bf16 and in quantised
formats. Prints a table and exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpu_peers.checks import Check
from gpu_peers.reference import MODELS

CHILD_TIMEOUT = 400.0
CHECKS_MARK = "CHECKS "
SIGNS = {True: "pass", False: "FAIL", None: "skip"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every model in a process of its own: a fault of the device ends only that one."""
    started = time.monotonic()
    args = parse_arguments(arguments)
    if args.child:
        print(CHECKS_MARK + json.dumps([asdict(check) for check in run(args.model[0], args)]))
        return 0
    with ThreadPoolExecutor(args.jobs) as pool:
        checks = [
            check
            for found in pool.map(lambda model: in_process(model, args), args.model)
            for check in found
        ]
    show(checks, time.monotonic() - started)
    if args.out:
        args.out.write_text(json.dumps([asdict(check) for check in checks], indent=1) + "\n")
    return int(any(check.passed is False for check in checks))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    add("--backend", default="cuda", help="the plugin, and torch's device (default: %(default)s)")
    add("--jobs", type=int, default=3, help="models at the same time (default: %(default)s)")
    add("--requests", type=int, default=48, help="in the crowded runs (default: %(default)s)")
    add("--tokens", type=int, default=24, help="of each answer (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the checks as JSON")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(model: str, args: argparse.Namespace) -> list[Check]:
    """All checks of a model, in this process."""
    from gpu_peers.checks import check_model

    with tempfile.TemporaryDirectory() as folder:
        return check_model(model, Path(folder), args.backend, args.requests, args.tokens)


def in_process(model: str, args: argparse.Namespace) -> list[Check]:
    """All checks of a model, in a process of their own."""
    command = [sys.executable, __file__, "--child", "--model", model, "--backend", args.backend]
    command += ["--requests", str(args.requests), "--tokens", str(args.tokens)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return [Check(model, "all", False, f"did not end within {CHILD_TIMEOUT:.0f} s")]
    for line in done.stdout.splitlines():
        if line.startswith(CHECKS_MARK):
            return [Check(**check) for check in json.loads(line.removeprefix(CHECKS_MARK))]
    print("\n".join(done.stderr.splitlines()[-30:]), file=sys.stderr)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return [Check(model, "all", False, f"ended with code {done.returncode}: {last[:200]}")]


def show(checks: Iterable[Check], seconds: float) -> None:
    """Print the table."""
    table = Table(title="Windlass against transformers", title_justify="left")
    for heading in ("model", "check", "", "figures"):
        table.add_column(heading, overflow="fold")
    counts = dict.fromkeys(SIGNS, 0)
    for check in checks:
        counts[check.passed] += 1
        table.add_row(check.model, check.name, SIGNS[check.passed], check.figures)
    Console(highlight=False, width=118).print(table)
    print(f"{counts[True]} passed, {counts[False]} failed, {counts[None]} skipped, {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
