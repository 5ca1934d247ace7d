"""`windlass run-batch`: a batch from a file to a file, without a server.

Imported to show help, so what is heavy is imported in `run`.
"""

from __future__ import annotations

import argparse

from windlass.arguments import add_engine_arguments, engine_config
from windlass.errors import ConfigError
from windlass_server.models import arguments as models

HELP = "run a file of requests in OpenAI's batch format, without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass run-batch`, and those of the engine."""
    group = parser.add_argument_group("batch")
    group.add_argument(
        "-i",
        "--input-file",
        required=True,
        metavar="FILE",
        help="requests, one per line; a file or an http(s) URL",
    )
    group.add_argument(
        "-o",
        "--output-file",
        required=True,
        metavar="FILE",
        help="results, one per line as they come; a file, or an http(s) URL to PUT them to",
    )
    group.add_argument(
        "--model", dest="model_option", metavar="MODEL", help="the same as MODEL, as vLLM has it"
    )
    group.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="requests that run at a time (default: --max-num-seqs)",
    )
    models.add_model_arguments(parser)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run every request; returns 0 when each has a result, whatever it is.

    Raises:
        WindlassError: a setting is wrong, the model cannot be loaded, the input cannot be read or
            the output not be written, or the engine died for good.
    """
    if args.model is not None and args.model_option is not None:
        raise ConfigError("MODEL and --model are the same: name one")
    args.model = args.model or args.model_option
    if args.concurrency is not None and args.concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, not {args.concurrency}")
    config, model = engine_config(args), models.model_settings(args)
    from windlass_server.batches.offline import run_batch

    run_batch(config, model, args.input_file, args.output_file, args.concurrency)
    return 0
