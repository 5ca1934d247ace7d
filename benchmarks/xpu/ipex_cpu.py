"""The backend "ipex" on the processor: proved by the conformance kit, timed beside our CPU kernels.

Makes an environment of its own, for Intel Extension for PyTorch needs torch 2.8: Windlass with its
C++ kernels (compiled, which takes minutes), without the torch that it asks for. There the kit
proves the backend, and one process runs the extension's kernels, Windlass's and torch's in turns,
on the same cache. Reports milliseconds and ratios to Windlass's kernels, each as median
(lowest-highest) over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.append(str(CHECKOUT / "benchmarks" / "cpu"))

from peers.spread import Spread  # noqa: E402 - the folder is known only now

EXTENSION = ("torch==2.8.*", "intel-extension-for-pytorch==2.8.0")
INSTALLED = CHECKOUT / "plugins" / "xpu" / "ipex"
OURS = "windlass"
Functions = Mapping[str, Callable[[], object]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path("~/.cache/windlass-benchmarks/ipex").expanduser(),
        help="where the virtual environment is, or will be",
    )
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="write outcomes and times to this file")
    args = parser.parse_args()
    if args.inside:
        return measure(args)
    make_environment(args.environment)
    if args.only_prepare:
        return 0
    # The caller's path leads to packages for another torch.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python_of(args.environment), __file__, "--inside", *sys.argv[1:]]
    return subprocess.run(
        command, env=variables | {"OMP_NUM_THREADS": str(args.threads)}, check=False
    ).returncode


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


def make_environment(environment: Path) -> None:
    """Install what is missing: the extension, Windlass's other requirements, then Windlass."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    others = [name for name in project["dependencies"] if not name.startswith("torch")]
    wanted = "\n".join((*EXTENSION, *others, str(CHECKOUT)))
    stamp = environment / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [python_of(environment), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *EXTENSION, *others], check=True)
    subprocess.run([*install, "--no-deps", "--editable", CHECKOUT], check=True)
    subprocess.run([*install, "--no-deps", INSTALLED], check=True)
    stamp.write_text(wanted)


def measure(args: argparse.Namespace) -> int:
    """Prove, then time; the exit status says whether the backend is proven."""
    from windlass.testing.conformance import Target, prove
    from windlass.testing.conformance.report import print_report

    report = prove(Target("ipex"), ("L0", "L1", "L2", "L3"))
    print_report(report)
    passed = Counter(o.provider for o in report.outcomes if o.status == "passed" and o.provider)
    print("passed by provider:", ", ".join(f"{name} {n}" for name, n in passed.items()))
    times = compare_all(args.threads, args.rounds)
    if args.json:
        found = {"conformance": json.loads(report.to_json()), "times": times}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if report.proven else 1


def compare_all(threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each contestant in each round, by case."""
    import torch

    from windlass_cpu.library import best_isa, set_threads
    from windlass_xpu.ipex_library import ipex_module

    torch.set_num_threads(threads)
    set_threads(threads)
    level = ipex_module("_C")._get_current_isa_level()
    print(f"\n{threads} thread(s); {OURS} runs {best_isa()}, the extension {level}")
    print(f"{'':30}{'':12}{'milliseconds':>26}{'times as long':>24}")
    seconds = {}
    with torch.inference_mode():
        for case, functions in {**attention_cases(), **row_cases()}.items():
            seconds[case] = in_turns(functions, rounds)
            print_case(case, seconds[case])
    return seconds


def attention_cases() -> dict[str, Functions]:
    """Attention over one cache, head-major in blocks of 32, and the write into it; bf16."""
    import torch

    from attention import Case, make_step, runner
    from windlass.backend import AttentionParams, TorchAttention
    from windlass.testing.conformance.compare import close
    from windlass_cpu.attention import CpuAttention
    from windlass_xpu.ipex import IpexAttention

    contestants = {OURS: CpuAttention(), "ipex": IpexAttention("cpu"), "torch": TorchAttention()}
    cases: dict[str, Functions] = {}
    for case in (
        Case("decode, 1 x 2048", 1, 1, 2048, (32, 8)),
        Case("decode, 16 x 512", 16, 1, 512, (32, 8)),
        Case("prefill 512", 1, 512, 512, (32, 8)),
        Case("prefill 512 after 1536", 1, 512, 2048, (32, 8)),
    ):
        step = make_step(case, torch.bfloat16)
        params = AttentionParams(scale=case.head_dim**-0.5)
        expected, _ = step.expected(params)
        for attention in contestants.values():
            close(step.run(attention, params), expected, torch.bfloat16)
        cases[case.name] = {
            name: runner(attention, step, params) for name, attention in contestants.items()
        }
    key = torch.randn(512, 8, 128).to(torch.bfloat16)
    slots = torch.randperm(512).to(torch.int32) + 32

    def writer(attention: CpuAttention | IpexAttention | TorchAttention) -> Callable[[], object]:
        return lambda: attention.write_kv(step.pool, 0, key, key, slots)

    return {**cases, "write 512 tokens": {name: writer(a) for name, a in contestants.items()}}


def row_cases() -> dict[str, Functions]:
    """A norm of one row and of many, which the backend leaves to torch; bf16."""
    import torch

    import windlass_cpu.ops
    from windlass.kernels import reference
    from windlass_xpu.ipex_library import ipex_module

    modules = {OURS: windlass_cpu.ops, "ipex": ipex_module("llm.functional"), "torch": reference}
    weight = torch.randn(4096).to(torch.bfloat16)

    def norms(rows: int) -> Functions:
        x = torch.randn(rows, 4096).to(torch.bfloat16)
        return {
            name: lambda module=module: module.rms_norm(x, weight, 1e-6)
            for name, module in modules.items()
        }

    return {f"rms_norm {rows} x 4096": norms(rows) for rows in (1, 64)}


def in_turns(functions: Functions, rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in each round; processor time where one thread does the work.

    A function is called as often in a round as makes about 20 ms.
    """
    import torch

    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    calls = {}
    for name, function in functions.items():
        function()
        start = clock()
        function()
        calls[name] = max(1, int(0.02 / (clock() - start)))
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            for _ in range(calls[name]):
                function()
            seconds[name].append((clock() - start) / calls[name])
    return seconds


def print_case(case: str, seconds: Mapping[str, Sequence[float]]) -> None:
    for name, own in seconds.items():
        milliseconds = Spread.of([1e3 * value for value in own]).text(3)
        ratios = Spread.of([a / b for a, b in zip(own, seconds[OURS], strict=True)]).text(2)
        print(f"{case:30}{name:12}{milliseconds:>26}{ratios if name != OURS else '':>24}")


if __name__ == "__main__":
    sys.exit(main())
