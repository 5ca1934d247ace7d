"""What starting the command line costs in processor time, beside a bare interpreter.

    python benchmarks/startup.py [--repeats 20]

Prints, for each command line, milliseconds of processor time (median, lowest to highest) and the
ratio to `python -c pass`, run alternately.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

_RUN = """
import json, sys
from windlass.cli import main
sys.exit(main(json.loads(sys.argv[1])))
"""
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "windlass --version": ["-c", _RUN, json.dumps(["--version"])],
    "windlass --help": ["-c", _RUN, json.dumps(["--help"])],
}


def milliseconds(arguments: list[str]) -> float:
    """Processor time of one process, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure all command lines in turn, and print them."""
    parser = argparse.ArgumentParser(description="Processor time of the command line's start.")
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            taken[name].append(milliseconds(arguments))
    bare = statistics.median(taken["python -c pass"])
    for name, times in taken.items():
        median = statistics.median(times)
        spread = f"({min(times):.0f} to {max(times):.0f})"
        print(f"{name:<20} {median:6.0f} ms {spread:<14} {median / bare:5.2f} x")


if __name__ == "__main__":
    main()
