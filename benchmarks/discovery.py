"""What discovery costs with six plugins installed: the four in-tree, the sample, a generated one.

    python benchmarks/discovery.py [--repeats 20]

Installs `tests/sample_plugin` and a plugin of `windlass plugin new` into a temporary folder, then
starts a fresh process for each measurement, all kinds in turn. Prints milliseconds from the call of
`discover()` to its end (lowest, median), the processor time of that process and of those that it
started (lowest), and how many there were. The module is loaded before the clock starts. The lowest
time is the nearest to what discovery takes where nothing else runs. On a busy machine compare with
the last line: the processor time of `python -c pass`, run in between.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from windlass.authoring.new_plugin import new_plugin, write_plugin

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, resource, sys, time
import windlass.plugin
from importlib import metadata
from windlass.plugin import child_process

if sys.argv[1] == "spawn":
    child_process.may_fork = lambda: False
kept = None
if sys.argv[1] == "in-tree":
    group = metadata.entry_points(group="windlass.backends")
    kept = [entry for entry in group if entry.dist.name == "windlass"]
children = []
starts = ("os.fork", "subprocess.Popen")
sys.addaudithook(lambda event, _: event in starts and children.append(event))
begun, busy = time.perf_counter(), time.process_time()
found = windlass.plugin.discover(entry_points=kept)
took, busy = time.perf_counter() - begun, time.process_time() - busy
used = resource.getrusage(resource.RUSAGE_CHILDREN)
heavy = sorted({"torch", "triton", "numpy"} & set(sys.modules))
print(json.dumps([len(found), took, busy, used.ru_utime + used.ru_stime, len(children), heavy]))
"""
KINDS = {
    "in-tree": "in this process",
    "fork": "third parties in copies of it",
    "spawn": "third parties in fresh interpreters",
}


def install(folder: Path) -> Path:
    """Install the sample plugin and a generated one into a folder, without a network."""
    generated, site = folder / "generated", folder / "site"
    write_plugin(new_plugin("generated", "cpu"), generated)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    sources = [str(ROOT / "tests/sample_plugin"), str(generated)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *sources], check=True)
    return site


def measure(kind: str, site: Path, cache: Path) -> tuple[int, float, float, float, int]:
    """Plugins found, seconds, processor seconds here and in children, children."""
    variables = os.environ | {"PYTHONPATH": str(site), "PYTHONPYCACHEPREFIX": str(cache)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found, took, busy, others, children, heavy = json.loads(done.stdout)
    if heavy:
        raise SystemExit(f"discovery imported {', '.join(heavy)}")
    return found, took, busy, others, children


def bare() -> float:
    """Processor seconds of an interpreter that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure all kinds in turn, and print them."""
    parser = argparse.ArgumentParser(description="What discovery costs.")
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = install(folder)
        for kind in KINDS:  # compiles to bytecode, as an installation has it
            measure(kind, site, folder / "cache")
        runs, nothing = [], []
        for _ in range(repeats):
            runs.append({kind: measure(kind, site, folder / "cache") for kind in KINDS})
            nothing.append(bare())
    print("                                      plugins  lowest  median  processor  children")
    for kind, words in KINDS.items():
        found, *times, children = zip(*(run[kind] for run in runs), strict=True)
        took, busy, others = ([1e3 * seconds for seconds in column] for column in times)
        print(
            f"{words:<38}{found[0]:7}{min(took):8.1f}{statistics.median(took):8.1f}"
            f"{min(busy):7.1f} +{min(others):6.1f}{children[0]:6}"
        )
    print(f"python -c pass{1e3 * min(nothing):54.1f}")


if __name__ == "__main__":
    main()
