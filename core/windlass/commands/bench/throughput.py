"""`windlass bench throughput`: tokens per second with many requests at once, offline."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from windlass.errors import ConfigError

if TYPE_CHECKING:
    from windlass.commands.bench.report import Result
    from windlass.llm import LLM

HELP = "measure tokens per second with many requests at once, offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass bench throughput`, spelt as in vLLM, and the engine's."""
    from windlass.arguments import add_engine_arguments
    from windlass.commands.bench.random_prompts import add_shape_arguments

    group = parser.add_argument_group("measurement")
    group.add_argument("--num-prompts", type=int, default=100, help="number of requests")
    group.add_argument("--repeats", type=int, default=3, help="runs; the median one is reported")
    group.add_argument("--output-json", metavar="FILE", help="write the result as JSON")
    add_shape_arguments(parser, input_len=128, output_len=128)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run all requests `--repeats` times, print the median run and the spread."""
    from windlass.arguments import engine_config
    from windlass.commands.bench.report import median_run, print_table, write_json
    from windlass.llm import LLM

    if args.num_prompts < 1 or args.repeats < 1:
        raise ConfigError("--num-prompts and --repeats must be at least 1")
    with LLM.from_config(engine_config(args)) as llm:
        runs = [_run_once(llm, args, i) for i in range(args.repeats)]
    result = median_run(runs, "tokens_per_second")
    spreads = result.get("spread", {})
    rows = [(key, value) for key, value in result.items() if key not in ("spread", "num_runs")]
    print_table("Offline throughput", rows, spreads)
    if args.output_json:
        write_json(args.output_json, result)
    return 0


def _run_once(llm: LLM, args: argparse.Namespace, index: int) -> Result:
    from windlass.commands.bench.offline import run_batch
    from windlass.commands.bench.random_prompts import random_prompts, shape_from

    tokenizer = llm.get_tokenizer()
    prompts = random_prompts(
        args.num_prompts,
        shape_from(args),
        vocab_size=min(tokenizer.vocab_size, llm.info.vocab_size),
        special_ids=tokenizer.special_ids,
        seed=(args.seed or 0) + index,
    )
    seconds = run_batch(llm, prompts, show_progress=True)
    output_tokens = sum(prompt.output_len for prompt in prompts)
    total_tokens = output_tokens + sum(len(prompt.token_ids) for prompt in prompts)
    return {
        "elapsed_time": seconds,
        "num_requests": len(prompts),
        "total_num_tokens": total_tokens,
        "requests_per_second": len(prompts) / seconds,
        "tokens_per_second": total_tokens / seconds,
        "output_throughput": output_tokens / seconds,
    }
