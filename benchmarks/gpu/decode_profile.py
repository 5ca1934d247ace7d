"""Where the time of Windlass' steps goes on a GPU: figures, floors, kernels and idle time.

See NOTES.md for the method. One call measures several models; the tables come last.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gpu_peers.ceilings import measure_ceilings
from gpu_peers.compiled import Compilations
from gpu_peers.engines.windlass import answer
from gpu_peers.floors import Ceilings, Costs
from gpu_peers.measure import Measurement
from gpu_peers.models import CONFIGS, config_of, make_model
from gpu_peers.protocol import Settings
from gpu_peers.trace import StepTrace
from gpu_peers.watched_runner import WatchedRunner
from gpu_peers.windlass_settings import engine_config
from gpu_peers.workloads import Work, fixed
from peers.protocol import Batch
from windlass import LLM
from windlass.executor.build import build_runner

SECTIONS = ("decode", "prefill", "kernels")
QUANTIZED_BYTES = {None: 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
SPANS = (16, 144)
REPEATS = 3
PROFILED_STEPS = 10

Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every model, write and print the results."""
    args = parse_arguments(arguments)
    ceilings = measure_ceilings(torch.device(args.device))
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in args.model:
            reports.append(measure(model, Path(folder), args, ceilings))
            free_memory(args.device)
            if args.out:
                args.out.write_text(json.dumps(reports, indent=1) + "\n")
    console = Console(highlight=False, width=118)
    for report in reports:
        show(report, console, args.kernels)
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", nargs="+", choices=CONFIGS, default=["llama-3.1-8b"])
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    add("--batches", nargs="+", type=int, default=[1, 8, 64, 256], help="of decode")
    add("--profiled", nargs="+", type=int, default=[1, 64], help="batches whose kernels are listed")
    add("--context", type=int, default=512, help="of decode, in tokens (default: %(default)s)")
    add("--prefill", type=int, default=8192, help="prompt of prefill (default: %(default)s)")
    add("--kernels", type=int, default=14, help="printed of a step (default: %(default)s)")
    add("--layers", type=int, help="fewer layers, for a trial")
    add("--device", default="cuda", help="torch's name of it, and the plugin's")
    add("--dtype", default="bfloat16", help="of weights and activations")
    add("--quantization", choices=[name for name in QUANTIZED_BYTES if name])
    add("--kv-cache-dtype", default="auto", choices=("auto", "fp8"))
    add("--memory", type=float, default=0.85, help="share for weights and KV cache")
    add("--max-num-seqs", type=int, default=256)
    add("--max-model-len", type=int, default=9216)
    add("--max-num-batched-tokens", type=int, help="of a step (default: the backend's)")
    add("--enforce-eager", action="store_true", help="no graphs")
    add("--out", type=Path, metavar="FILE", help="write everything as JSON")
    return parser.parse_args(arguments)


def measure(model: str, folder: Path, args: argparse.Namespace, ceilings: Ceilings) -> Report:
    """Load a model with random weights and run the sections that were asked for."""
    config = engine_config(settings(str(make_model(model, folder, args.layers)), args))
    started = time.perf_counter()
    runner = WatchedRunner(build_runner(config))
    with LLM.from_config(config, runner) as llm:
        report: Report = {
            "model": model,
            "settings": {name: str(value) for name, value in vars(args).items()},
            "torch": torch.__version__,
            "device": device_name(args.device),
            "ceilings": asdict(ceilings),
            "kv_tokens": llm.info.num_blocks * llm.info.block_size,
            "load_seconds": time.perf_counter() - started,
        }
        compilations = Compilations()
        answer(llm, fixed(1, 16, 1, "first"))
        report["first_token_seconds"] = time.perf_counter() - started
        report["process_seconds"] = process_age()
        costs = Costs.of(
            config_of(model, args.layers),
            weight_bytes=QUANTIZED_BYTES[args.quantization],
            kv_element_bytes=1.0 if args.kv_cache_dtype == "fp8" else 2.0,
        )

        def ask(command: str, payload: dict[str, Any]) -> dict[str, Any]:
            assert command == "run"
            return asdict(answer(llm, Batch(**payload)))

        measurement = Measurement(ask, costs, ceilings, args.max_num_seqs, SPANS, REPEATS)
        sections: dict[str, Callable[[], object]] = {
            "decode": lambda: [decode(b, measurement, runner, args) for b in args.batches],
            "prefill": lambda: figures(measurement, prefill_work(args)),
            "kernels": lambda: profiles(llm, runner, args),
        }
        for name in args.sections:
            report[name] = sections[name]()
            say(f"{model} {name}: {report[name] if name != 'kernels' else 'done'}")
        report["compiled_while_serving"] = compilations.kernels
    return report


def settings(model: str, args: argparse.Namespace) -> Settings:
    """What the engine is loaded with."""
    return Settings(
        model=model,
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


def decode(
    batch: int, measurement: Measurement, runner: WatchedRunner, args: argparse.Namespace
) -> Report:
    """A decode step of one batch size, with what the host did meanwhile."""
    work = Work(f"decode@{batch}", "decode", "decode", batch, args.context)
    report: Report = {"batch": batch, "figures": figures(measurement, work)}
    host = runner.host_times(batch, SPANS[1])
    return report | {"host": asdict(host) if host else None}


def prefill_work(args: argparse.Namespace) -> Work:
    """One long prompt."""
    return Work("prefill", "prefill", "prefill", 1, args.prefill)


def figures(measurement: Measurement, work: Work) -> list[Report]:
    """A workload's figures as plain data."""
    return [asdict(figure) for figure in measurement.run(work, "profile")]


def profiles(llm: LLM, runner: WatchedRunner, args: argparse.Namespace) -> list[Report]:
    """Kernels of decode steps at each batch size, and of the step of one long prompt."""
    found = []
    for batch in args.profiled:
        runner.profile(PROFILED_STEPS + 1, decodes=True)
        # While the last prompts are prefilled the first answers must not end.
        ramp = batch * args.context // 2048
        answer(llm, fixed(batch, args.context, PROFILED_STEPS + 8 + ramp, "kernels"))
        found.append(traced(f"decode@{batch}", runner.trace))
    runner.profile(1, decodes=False)
    answer(llm, fixed(1, args.prefill, 1, "kernels"))
    found.append(traced(f"prefill@{args.prefill}", runner.trace))
    return found


def traced(name: str, trace: StepTrace | None) -> Report:
    """A trace as plain data; empty where the device left none."""
    if trace is None:
        return {"name": name}
    return {"name": name, **asdict(trace), "kernel_count": trace.kernel_count}


def show(report: Report, console: Console, kernels: int) -> None:
    """Print a model's tables."""
    ceilings = Ceilings(**report["ceilings"])
    console.print(
        f"\n{report['model']} on {report['device']}: copy {ceilings.bandwidth / 1e12:.2f} TB/s, "
        f"product {ceilings.flops / 1e12:.0f} TFLOP/s; loaded in {report['load_seconds']:.1f} s, "
        f"first token after {report['first_token_seconds']:.1f} s, "
        f"{report['process_seconds']:.1f} s after the process began; "
        f"{report['kv_tokens']} tokens of KV cache",
        soft_wrap=True,
    )
    late = report["compiled_while_serving"]
    console.print(f"{len(late)} kernels were compiled or loaded while requests were served")
    for profile in report.get("kernels", []):
        show_kernels(profile, console, kernels)
    table = numbers("work", "value", "unit", "floor", "% of floor", "host ms", "launch ms")
    for entry in report.get("decode", []):
        step, rate = entry["figures"]
        host = entry["host"] or {"busy": float("nan"), "launch": float("nan")}
        row(table, f"decode@{entry['batch']}", step, host)
        row(table, "", rate)
    for figure in report.get("prefill", []):
        row(table, "prefill", figure)
    console.print(table)


def row(table: Table, name: str, figure: Report, host: Report | None = None) -> None:
    """A figure beside its floor."""
    value, floor = figure["value"], figure["floor"]
    share = min(value, floor) / max(value, floor)
    own = [f"{1e3 * host['busy']:.3f}", f"{1e3 * host['launch']:.3f}"] if host else ["", ""]
    table.add_row(
        name, f"{value:.3f}", figure["metric"], f"{floor:.3f}", f"{100 * share:.1f}", *own
    )


def show_kernels(profile: Report, console: Console, kernels: int) -> None:
    """The kernels that take most of a step's time."""
    if "kernels" not in profile:
        console.print(f"{profile['name']}: the profiler saw nothing on the device")
        return
    gap = profile["gap"]
    idle = profile["span"] - profile["busy"]
    table = numbers("kernel", "a step", "us a step", "us each")
    table.title = (
        f"{profile['name']}: {profile['kernel_count']:.0f} kernels in {profile['span']:.0f} us, "
        f"idle {idle:.0f} us inside, {0 if gap is None else gap:.1f} us before the next step"
    )
    for kernel in profile["kernels"][:kernels]:
        each = kernel["microseconds"] / kernel["count"]
        table.add_row(
            kernel["name"][:70],
            f"{kernel['count']:.1f}",
            f"{kernel['microseconds']:.1f}",
            f"{each:.2f}",
        )
    console.print(table)


def numbers(first: str, *others: str) -> Table:
    """A table whose first column is text."""
    table = Table(title_justify="left")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def free_memory(device: str) -> None:
    """Give back what the last model left in torch's cache."""
    gc.collect()
    if device != "cpu":
        torch.accelerator.empty_cache()


def device_name(device: str) -> str:
    """What the maker calls it."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def process_age() -> float:
    """Seconds since this process began, its imports included; Linux."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{process_age():6.1f} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
