"""Windlass and other engines on the same random-weight model, in turns in one run on a GPU.

See benchmarks/README.md for how to run this, and NOTES.md beside it for the method.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gpu_peers.contest import ENGINES, Contest, Options
from gpu_peers.floors import Costs
from gpu_peers.models import CONFIGS, config_of, make_model
from gpu_peers.protocol import Settings
from gpu_peers.results import OURS, tables
from gpu_peers.workloads import Work, workloads

TESTS = ("decode", "prefill", "nano", "mixed", "prefix", "online")
QUANTIZED_BYTES = {None: 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
DEFAULT_FOLDER = Path.home() / ".cache/windlass-benchmarks/gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the turns, print the tables; 1 when an engine of ours failed."""
    started = time.monotonic()
    args = parse_arguments(arguments)
    console = Console(highlight=False, width=110)
    options = Options(
        python=sys.executable,
        vllm_python=args.vllm_python,
        vllm_path=args.vllm_path,
        logs=args.folder / "logs",
        repeats=args.repeats,
        end=started + args.deadline,
    )

    def say(text: str) -> None:
        seconds = time.monotonic() - started
        console.print(f"{seconds:6.1f} {text}", markup=False, soft_wrap=True)

    contests: list[Contest] = []
    for model in args.model:
        contest = make_contest(model, args, options, say)
        contests.append(contest)
        for engine in args.engines:
            contest.turn(engine, chosen(args), lambda: save(args.out, contests))
            save(args.out, contests)
    for contest in contests:
        for table in tables(contest.samples, contest.failures):
            console.print(table)
    return int(any(f.engine == OURS for contest in contests for f in contest.failures))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", nargs="+", choices=CONFIGS, default=["llama-3.1-8b"])
    add("--engines", nargs="+", choices=ENGINES, default=[OURS, "vllm", OURS, "transformers"])
    add("--tests", nargs="+", choices=TESTS, default=list(TESTS), help="default: all")
    add("--batches", nargs="+", type=int, default=[1, 64, 256], help="of decode")
    add("--context", type=int, default=512, help="of decode, in tokens (default: %(default)s)")
    add("--prefill", type=int, default=8192, help="prompt of prefill (default: %(default)s)")
    add("--rates", nargs="+", type=float, default=[8.0, 16.0, 32.0], help="of online, requests/s")
    add("--seconds", type=float, default=20.0, help="of arrivals at each rate")
    add("--repeats", type=int, default=2, help="of a decode in a turn (default: %(default)s)")
    add("--deadline", type=float, default=540.0, help="seconds after which all ends")
    add("--shrink", type=int, default=1, help="divide numbers and lengths, for a trial")
    add("--layers", type=int, help="fewer layers, for a trial")
    add("--device", default="cuda", help="torch's name of it (default: %(default)s)")
    add("--dtype", default="bfloat16", help="of weights and activations")
    add("--quantization", choices=[name for name in QUANTIZED_BYTES if name])
    add("--kv-cache-dtype", default="auto", choices=("auto", "fp8"))
    add("--memory", type=float, default=0.85, help="share for weights and KV cache")
    add("--max-num-seqs", type=int, default=256)
    add("--max-model-len", type=int, default=9216)
    add("--max-num-batched-tokens", type=int, help="of a step (default: each engine's own)")
    add("--enforce-eager", action="store_true", help="no graphs, in any engine")
    add("--vllm-path", metavar="DIR", help="folder from which vLLM can be imported")
    add("--vllm-python", default=sys.executable, help="interpreter that runs vLLM")
    add("--folder", type=Path, default=DEFAULT_FOLDER, help="of models and logs")
    add("--out", type=Path, metavar="FILE", help="write every figure as JSON")
    return parser.parse_args(arguments)


def make_contest(
    model: str, args: argparse.Namespace, options: Options, say: Callable[[str], None]
) -> Contest:
    """The model's files and what a turn needs to know."""
    settings = Settings(
        model=str(make_model(model, args.folder / "models", args.layers)),
        device=args.device,
        dtype=args.dtype,
        max_model_len=args.max_model_len,
        max_num_seqs=args.max_num_seqs,
        memory=args.memory,
        batched_tokens=args.max_num_batched_tokens,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
        enforce_eager=args.enforce_eager,
        online=False,
    )
    costs = Costs.of(
        config_of(model, args.layers),
        weight_bytes=QUANTIZED_BYTES[args.quantization],
        kv_element_bytes=1.0 if args.kv_cache_dtype == "fp8" else 2.0,
    )
    return Contest(model, settings, costs, options, say)


def chosen(args: argparse.Namespace) -> list[Work]:
    """The workloads that were asked for."""
    works = workloads(
        args.batches, args.context, args.prefill, args.rates, args.seconds, args.shrink
    )
    return [work for work in works if work.test in args.tests]


def save(out: Path | None, contests: Sequence[Contest]) -> None:
    """Write what there is so far: a run that is ended early keeps its figures."""
    if out is None:
        return
    report = [
        {
            "model": contest.model,
            "settings": asdict(contest.settings),
            "turns": contest.notes,
            "samples": [asdict(s) | {"share_of_floor": s.share_of_floor} for s in contest.samples],
            "failures": [asdict(failure) for failure in contest.failures],
        }
        for contest in contests
    ]
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
