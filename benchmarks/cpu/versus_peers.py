"""Windlass and other engines on the same random-weight models, in turns in one run on a CPU.

See benchmarks/README.md for how to run this and how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from peers.contest import CONTESTANTS, PRECISIONS, Contest, Options, model_folder
from peers.environments import variables_of
from peers.report import tables
from peers.results import Failure, Sample
from peers.shapes import SHAPES, Shape
from peers.workloads import WORKS, Work

DEFAULT_FOLDER = Path.home() / ".cache/windlass-benchmarks"


def main() -> None:
    args = parse_arguments()
    cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cpus)  # of this process and all that it starts
    console = Console(highlight=False, width=120)
    options = Options(
        folder=args.environments.expanduser().absolute(),
        windlass_python=args.windlass_python,
        threads=len(cpus),
        cpus=cpus,
        kv_tokens=args.kv_tokens,
        every_pair=args.every_pair,
        repeat_all=args.repeat_all,
    )
    samples: list[Sample] = []
    failures: list[Failure] = []
    notes: dict[str, object] = {}
    for shape in shapes(args):
        make_model(shape, options, console)
        for precision in args.precision:
            contest = Contest(shape, precision, options, lambda text: say(console, text))
            try:
                if args.only_prepare:
                    contest.prepare(args.engines)
                else:
                    contest.open(args.engines)
                for work in [] if args.only_prepare else works(args):
                    contest.run(work, repeats(work, args))
                    save(args, samples + contest.samples, failures + contest.failures, notes)
            finally:
                contest.close()
            samples += contest.samples
            failures += contest.failures
            notes[f"{shape.name} {precision}"] = contest.notes
    save(args, samples, failures, notes)
    for table in tables(samples, failures):
        console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument(
        "--work", nargs="+", choices=("W2", *WORKS), default=list(WORKS), help="default: all"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="repetitions of W1 (default: %(default)s)"
    )
    parser.add_argument(
        "--long-repeats", type=int, default=2, help="of all other work (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat-all",
        action="store_true",
        help="repeat peers of less than half the best peer's rate too",
    )
    parser.add_argument(
        "--every-pair",
        action="store_true",
        help="run llama.cpp and transformers on the workloads that take them minutes too",
    )
    parser.add_argument("--threads", type=int, help="of every engine (default: all processors)")
    parser.add_argument("--layers", type=int, help="fewer layers make a quick trial")
    parser.add_argument("--shrink", type=int, default=1, help="divide all lengths, for a trial")
    parser.add_argument("--kv-tokens", type=int, default=24576, help="KV cache of every engine")
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="DIR",
        default=DEFAULT_FOLDER,
        help="where environments, models and logs are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--windlass-python", default=sys.executable, help="interpreter that has Windlass"
    )
    parser.add_argument(
        "--only-prepare", action="store_true", help="make environments and models, measure nothing"
    )
    parser.add_argument("--output", metavar="FILE", help="write every run as JSON")
    return parser.parse_args()


def shapes(args: argparse.Namespace) -> list[Shape]:
    """The models that were asked for."""
    chosen = [SHAPES[name] for name in args.model]
    return [shape.with_layers(args.layers) if args.layers else shape for shape in chosen]


def works(args: argparse.Namespace) -> list[Work]:
    """The workloads that were asked for; W2 stands for both of its sizes."""
    named = [work for name, work in WORKS.items() if {name, name.partition("@")[0]} & {*args.work}]
    return [work.shrunk(args.shrink) for work in named]


def repeats(work: Work, args: argparse.Namespace) -> int:
    """How often; single-stream decoding is short and depends most on the moment."""
    return int(args.repeats if work.name == "W1" else args.long_repeats)


def make_model(shape: Shape, options: Options, console: Console) -> None:
    """Make the checkpoint, in a process that has transformers, unless it is there."""
    folder = model_folder(options.folder, shape)
    if folder.exists():
        return
    say(console, f"making the model {folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = options.windlass_python
    variables = variables_of("windlass", Path(python), options.threads, options.cpus, folder)
    subprocess.run(
        [python, "-P", "-m", "peers.checkpoint", shape.name, str(shape.layers), str(folder)],
        env=os.environ | variables,
        check=True,
    )


def save(
    args: argparse.Namespace,
    samples: Sequence[Sample],
    failures: Sequence[Failure],
    notes: dict[str, object],
) -> None:
    """Write what there is so far: a run that is ended early keeps its figures."""
    if args.output:
        report = {
            "arguments": {name: str(value) for name, value in vars(args).items()},
            "engines": notes,
            "samples": [asdict(sample) for sample in samples],
            "failures": [asdict(failure) for failure in failures],
        }
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n")


def say(console: Console, text: str) -> None:
    """A line of progress with the time."""
    console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
