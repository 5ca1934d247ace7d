"""`windlass bench latency`: how long one batch takes, offline."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from windlass.errors import ConfigError

if TYPE_CHECKING:
    from windlass.llm import LLM

HELP = "time one batch of equal requests, offline"
PERCENTILES = (10, 25, 50, 75, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass bench latency`, spelt as in vLLM, and those of the engine."""
    from windlass.arguments import add_engine_arguments

    group = parser.add_argument_group("measurement")
    group.add_argument("--input-len", type=int, default=32, help="prompt tokens of a request")
    group.add_argument("--output-len", type=int, default=128, help="output tokens of a request")
    group.add_argument("--batch-size", type=int, default=8, help="requests at a time")
    group.add_argument("--num-iters-warmup", type=int, default=3, help="runs that are not counted")
    group.add_argument("--num-iters", type=int, default=10, help="runs that are counted")
    group.add_argument("--output-json", metavar="FILE", help="write the result as JSON")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the batch again and again, print a table; the prompts of every run are new."""
    import numpy as np

    from windlass.arguments import engine_config
    from windlass.commands.bench.report import print_table, spread, write_json
    from windlass.llm import LLM

    if args.num_iters < 1 or args.num_iters_warmup < 0 or args.batch_size < 1:
        raise ConfigError("--num-iters and --batch-size must be at least 1, --num-iters-warmup 0")
    with LLM.from_config(engine_config(args)) as llm:
        latencies = _measure(llm, args)
    tokens = args.batch_size * args.output_len
    result = {
        "avg_latency": float(np.mean(latencies)),
        "latencies": latencies,
        "percentiles": {str(p): float(np.percentile(latencies, p)) for p in PERCENTILES},
        "output_throughput": tokens / float(np.median(latencies)),
        "batch_size": args.batch_size,
        "input_len": args.input_len,
        "output_len": args.output_len,
    }
    times = spread(latencies)
    rates = {"min": tokens / times["max"], "max": tokens / times["min"]}
    rows = [
        ("latency in s (median)", times["median"]),
        ("output tokens/s", result["output_throughput"]),
    ]
    title = f"{args.batch_size} requests, {args.input_len} tokens in, {args.output_len} out"
    print_table(title, rows, {rows[0][0]: times, rows[1][0]: rates})
    if args.output_json:
        write_json(args.output_json, result)
    return 0


def _measure(llm: LLM, args: argparse.Namespace) -> list[float]:
    """Seconds of every counted run."""
    from windlass.commands.bench.offline import run_batch
    from windlass.commands.bench.random_prompts import PromptShape, random_prompts
    from windlass.progress import ProgressBar

    shape = PromptShape(input_len=args.input_len, output_len=args.output_len)
    tokenizer = llm.get_tokenizer()
    seconds = []
    runs = args.num_iters_warmup + args.num_iters
    with ProgressBar() as bar:
        for i in range(runs):
            bar.report(f"Run {i + 1} of {runs}", i / runs)
            prompts = random_prompts(
                args.batch_size,
                shape,
                vocab_size=min(tokenizer.vocab_size, llm.info.vocab_size),
                special_ids=tokenizer.special_ids,
                seed=(args.seed or 0) + i,
            )
            elapsed = run_batch(llm, prompts, show_progress=False)
            if i >= args.num_iters_warmup:
                seconds.append(elapsed)
    return seconds
