"""`windlass bench serve`: load on a running OpenAI-compatible server, ours or another's."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from windlass.errors import ConfigError

if TYPE_CHECKING:
    from windlass.commands.bench.load_generator import Target
    from windlass.commands.bench.random_prompts import RandomPrompt
    from windlass.commands.bench.report import Result
    from windlass.commands.bench.request_record import RequestRecord
    from windlass.text import Tokenizer

HELP = "measure a running OpenAI-compatible server under load"

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
_ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass bench serve`, spelt as in vLLM."""
    from windlass.commands.bench.random_prompts import add_shape_arguments

    _add_target(parser)
    add_shape_arguments(parser, input_len=1024, output_len=128)
    _add_load(parser)
    _add_report(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--base-url", default="http://127.0.0.1:8000", help="address of the server")
    group.add_argument(
        "--backend",
        choices=sorted(_ENDPOINTS),
        default="openai",
        help="which API is spoken: text completions or chat",
    )
    group.add_argument("--endpoint", help="path (default: that of --backend)")
    group.add_argument("--model", help="model name (default: the first that the server has)")
    group.add_argument("--tokenizer", help="folder or hub id (default: the model's)")
    group.add_argument("--api-key", help="key sent as bearer token")
    group.add_argument(
        "--ready-check-timeout-sec",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for the server",
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    group.add_argument("--num-prompts", type=int, default=1000, help="number of requests")
    group.add_argument(
        "--request-rate",
        type=float,
        default=math.inf,
        help="requests per second (default: inf, all at once)",
    )
    group.add_argument(
        "--burstiness",
        type=float,
        default=1.0,
        help="shape of the gamma distributed gaps; 1 is a Poisson process",
    )
    group.add_argument("--max-concurrency", type=int, help="most requests in flight at a time")
    group.add_argument("--num-warmups", type=int, default=1, help="requests before the measurement")
    group.add_argument("--repeats", type=int, default=1, help="runs; the median one is reported")
    group.add_argument("--ignore-eos", action="store_true", help="always produce every token")
    group.add_argument("--temperature", type=float, default=0.0, help="sampling temperature")
    group.add_argument("--seed", type=int, default=0, help="seed of prompts and arrival times")


def _add_report(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--percentile-metrics",
        default=",".join(METRICS),
        help="which times are reported (default: %(default)s)",
    )
    group.add_argument(
        "--metric-percentiles", default="99", help="their percentiles, as 50,90,99.9"
    )
    group.add_argument(
        "--goodput",
        nargs="+",
        default=[],
        metavar="METRIC:MS",
        help="count requests that meet these, as ttft:500 tpot:50",
    )
    group.add_argument("--save-result", action="store_true", help="write the result as JSON")
    group.add_argument("--result-filename", help="file of --save-result")
    group.add_argument("--disable-tqdm", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Send the load, print the table; 1 when a request failed."""
    from windlass.commands.bench.report import median_run, write_json
    from windlass.commands.bench.request_record import summarise

    metrics, percentiles = _metrics(args.percentile_metrics), _percentiles(args.metric_percentiles)
    goals = _goals(args.goodput)
    _check_load(args)
    target, tokenizer = _prepare(args)
    _warm_up(args, target, tokenizer)
    runs = []
    for i in range(args.repeats):
        # New prompts in every run: what a prefix cache kept must not answer them.
        prompts = _prompts(args, tokenizer, args.num_prompts, args.seed + i)
        records, duration = _send(args, target, prompts, i)
        summary = summarise(
            records, duration, metrics=metrics, percentiles=percentiles, goals_ms=goals
        )
        summary["errors"] = [record.error for record in records if record.error is not None]
        runs.append(summary)
    result = _described(args, target) | median_run(runs, "output_throughput")
    _print(result)
    if args.save_result:
        write_json(args.result_filename or _default_filename(args, target), result)
    failed = sum(run["failed"] for run in runs)
    if failed:
        errors = sorted({error for run in runs for error in run["errors"]})
        print(f"{failed} requests failed, for example: {errors[0]}")
    return 1 if failed else 0


def _prepare(args: argparse.Namespace) -> tuple[Target, Tokenizer]:
    """Find the server, its model and the tokenizer."""
    import asyncio

    from windlass import demo_model
    from windlass.commands.bench.load_generator import Target, first_model, wait_until_ready
    from windlass.text import Tokenizer

    endpoint = args.endpoint or _ENDPOINTS[args.backend]
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    address = Target(base_url=args.base_url, endpoint=endpoint, model="", headers=headers)
    asyncio.run(wait_until_ready(address, args.ready_check_timeout_sec))
    served, root = asyncio.run(first_model(address))
    named = args.tokenizer or args.model or root
    tokenizer = Tokenizer.load(str(demo_model.path()) if named == demo_model.NAME else named)
    body: dict[str, Any] = {"temperature": args.temperature}
    if args.ignore_eos:
        body["ignore_eos"] = True
    target = Target(
        base_url=args.base_url,
        endpoint=endpoint,
        model=args.model or served,
        headers=headers,
        body=body,
        decode=tokenizer.decode if "chat" in endpoint else None,
    )
    return target, tokenizer


def _prompts(
    args: argparse.Namespace, tokenizer: Tokenizer, count: int, seed: int
) -> list[RandomPrompt]:
    from windlass.commands.bench.random_prompts import random_prompts, shape_from

    return random_prompts(
        count,
        shape_from(args),
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        seed=seed,
    )


def _warm_up(args: argparse.Namespace, target: Target, tokenizer: Tokenizer) -> None:
    import asyncio

    from windlass.commands.bench.load_generator import send_all

    prompts = _prompts(args, tokenizer, args.num_warmups, args.seed + args.repeats)
    asyncio.run(send_all(target, prompts, [0.0] * len(prompts)))


def _send(
    args: argparse.Namespace, target: Target, prompts: list[RandomPrompt], index: int
) -> tuple[list[RequestRecord], float]:
    import asyncio

    from windlass.commands.bench.load_generator import arrival_times, send_all
    from windlass.progress import ProgressBar

    arrivals = arrival_times(
        len(prompts), args.request_rate, args.burstiness, seed=args.seed + index
    )
    title = f"Run {index + 1} of {args.repeats}"
    done = 0
    with ProgressBar(enabled=not args.disable_tqdm) as bar:

        def count(_: RequestRecord) -> None:
            nonlocal done
            done += 1
            bar.report(title, done / len(prompts))

        return asyncio.run(
            send_all(
                target,
                prompts,
                arrivals,
                max_concurrency=args.max_concurrency,
                on_done=count,
            )
        )


def _described(args: argparse.Namespace, target: Target) -> Result:
    from datetime import datetime

    rate = "inf" if math.isinf(args.request_rate) else args.request_rate
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": args.backend,
        "model_id": target.model,
        "num_prompts": args.num_prompts,
        "request_rate": rate,
        "burstiness": args.burstiness,
        "max_concurrency": args.max_concurrency,
    }


def _default_filename(args: argparse.Namespace, target: Target) -> str:
    from datetime import datetime

    model = target.model.replace("/", "-")
    return f"{args.backend}-{args.request_rate:g}qps-{model}-{datetime.now():%Y%m%d-%H%M%S}.json"


def _print(result: Result) -> None:
    from windlass.commands.bench.report import print_table

    hidden = ("date", "errors", "spread", "num_runs")
    rows = [(key, value) for key, value in result.items() if key not in hidden]
    print_table("Serving benchmark", rows, result.get("spread", {}))


def _check_load(args: argparse.Namespace) -> None:
    allowed = {"num_prompts": 1, "repeats": 1, "num_warmups": 0, "max_concurrency": 1}
    for name, least in allowed.items():
        value = getattr(args, name)
        if value is not None and value < least:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} must be at least {least}, not {value}")
    for option, value in (
        ("--request-rate", args.request_rate),
        ("--burstiness", args.burstiness),
    ):
        if not value > 0:
            raise ConfigError(f"{option} must be above 0, not {value:g}")


def _metrics(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        allowed = ", ".join(METRICS)
        raise ConfigError(f"--percentile-metrics: {unknown[0]!r} is none of {allowed}")
    return names


def _percentiles(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--metric-percentiles must be numbers as 50,99, not {text!r}") from None
    if not all(0 <= value <= 100 for value in values):
        raise ConfigError(f"--metric-percentiles must be from 0 to 100, not {text!r}")
    return values


def _goals(words: list[str]) -> dict[str, float]:
    goals = {}
    for word in words:
        name, _, limit = word.partition(":")
        try:
            goals[name] = float(limit)
        except ValueError:
            raise ConfigError(f"--goodput must be as ttft:500, not {word!r}") from None
        if name not in GOODPUT_METRICS:
            allowed = ", ".join(GOODPUT_METRICS)
            raise ConfigError(f"--goodput: {name!r} is none of {allowed}")
    return goals
