"""All measurements on a GPU in one call, in the order of their weight, until the time is over.

Every part is a script of this folder in a process of its own, with its log and its JSON in the
folder given by `--out`; one that fails or runs too long does not stop the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MODELS = ("llama-3.1-8b", "qwen3-0.6b")
LAST_LINES = 40
KILL_MARGIN = 10.0
"""Seconds between a script's own end and the moment when it is killed."""


@dataclass(frozen=True)
class Part:
    """A script with its arguments, and the most seconds that it may take."""

    name: str
    script: str
    arguments: tuple[str, ...]
    seconds: float
    deadline: bool = False
    """Whether the script itself takes `--deadline` and prints what it has by then."""


def parts(models: Sequence[str], common: Sequence[str], vllm_path: str | None) -> Iterator[Part]:
    """What is measured. `common` goes to every script that loads `models`."""
    yield Part("correctness", "correctness", (), 120)
    yield Part("profile", "decode_profile", ("--model", *models, *common), 150)
    vllm = ("--vllm-path", vllm_path) if vllm_path else ()
    engines = ("--engines", "windlass", "vllm", "windlass")
    for tests, seconds in ((("decode", "prefill", "nano"), 260), (("mixed", "prefix"), 200)):
        for model in models:
            arguments = ("--model", model, *engines, "--tests", *tests, *vllm, *common)
            name = f"peers-{model}-{tests[0]}"
            yield Part(name, "versus_peers", (*arguments, "--repeats", "1"), seconds, True)
    for model in models:
        online = ("--model", model, "--engines", "windlass", "vllm", "--tests", "online")
        yield Part(f"peers-{model}-online", "versus_peers", (*online, *vllm, *common), 300, True)
    slow = ("--model", models[-1], "--engines", "windlass", "transformers", "--tests", "decode")
    yield Part("peers-transformers", "versus_peers", (*slow, *common), 120, True)
    for name in ("attention", "linear", "row_kernels", "quantized_linear", "experts"):
        yield Part(name, name, (), 180)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what there is time for; 1 when a part failed."""
    args = parse_arguments(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + args.deadline, []
    for part in parts(args.model, args.common.split(), args.vllm_path):
        if args.only and part.name not in args.only:
            continue
        seconds = min(part.seconds, end - time.monotonic())
        if seconds < 2 * KILL_MARGIN:
            print(f"== {part.name}: no time left")
            continue
        if not run(part, args.out, seconds):
            failed.append(part.name)
    print("failed:", ", ".join(failed) or "nothing")
    return int(bool(failed))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="of logs and JSON files")
    add("--deadline", type=float, default=1500.0, help="seconds (default: %(default)s)")
    add("--model", nargs="+", default=list(MODELS))
    add("--only", nargs="+", metavar="PART", help="some parts, by the names that are printed")
    add("--vllm-path", metavar="DIR", help="folder from which vLLM can be imported")
    add("--common", default="", help="arguments of the scripts that load models, as one text")
    return parser.parse_args(arguments)


def run(part: Part, folder: Path, seconds: float) -> bool:
    """Run a part and print the end of its log; whether it succeeded in time."""
    command = [sys.executable, str(HERE / f"{part.script}.py"), *part.arguments]
    command += ["--out", str(folder / f"{part.name}.json")]
    if part.deadline:
        command += ["--deadline", f"{seconds - KILL_MARGIN:.0f}"]
    log = folder / f"{part.name}.log"
    print(f"== {part.name}, at most {seconds:.0f} s", flush=True)
    started = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-LAST_LINES:]))
    print(f"== {part.name}: code {code} after {time.monotonic() - started:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
