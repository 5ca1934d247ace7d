"""The command-line flags of the engine, shared by every command that starts one.

Flags are spelt as vLLM's users know them. What is not given is left to `EngineConfig`, so that
each default is written once.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windlass.config import (
        BackendConfig,
        EngineConfig,
        PoolingConfig,
        StructuredOutputConfig,
    )

_MULTIPLIERS = {"": 1, "k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmKM]?)")


def token_count(text: str) -> int:
    """Read a number of tokens: 4096, 32k (thousands), 32K (of 1024), 1.5M.

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 4096, 32k or 32K")
    return int(float(match[1]) * _MULTIPLIERS[match[2]])


def _context_length(text: str) -> int | None:
    return None if text == "auto" else token_count(text)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the engine's flags; `engine_config` reads what they were set to."""
    _add_model_arguments(parser)
    _add_backend_arguments(parser)
    _add_cache_arguments(parser)
    _add_scheduler_arguments(parser)
    _add_constraint_arguments(parser)
    _add_pooling_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a folder or a Hugging Face id (default: the embedded demo model)",
    )
    group.add_argument("--tokenizer", help="folder or id of another tokenizer")
    group.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    group.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"))
    group.add_argument(
        "--quantization",
        choices=("int8", "int4", "fp8"),
        help="round the weights of linear layers while loading (default: keep them as they are)",
    )
    group.add_argument(
        "--load-format", choices=("auto", "dummy"), help="dummy: seeded random weights"
    )
    group.add_argument(
        "--max-model-len",
        type=_context_length,
        metavar="TOKENS",
        help="longest prompt and answer together: 4096, 32k, 32K, or auto (the model's own)",
    )
    group.add_argument("--seed", type=int, help="seed of random weights (default: 0)")


def _op_order(text: str) -> tuple[str, list[str]]:
    op, _, providers = text.partition("=")
    if not op or not providers:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OP=PROVIDER[,PROVIDER...]")
    return op, providers.split(",")


def _add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hardware")
    group.add_argument("--backend", help="hardware plugin by name (default: auto)")
    group.add_argument(
        "--device-index", type=int, metavar="N", help="which of its devices (default: 0)"
    )
    group.add_argument(
        "--op",
        dest="ops",
        type=_op_order,
        action="append",
        metavar="OP=PROVIDER,...",
        help="providers of an op in order of preference; may be given several times",
    )
    group.add_argument(
        "--disable-plugin",
        dest="disabled_plugins",
        action="append",
        metavar="NAME",
        help="never import this plugin; may be given several times",
    )
    group.add_argument(
        "--allow-cpu-fallback",
        action="store_true",
        default=None,
        help="let --backend auto go on with less when an accelerator is broken",
    )
    group.add_argument(
        "--enforce-eager",
        action="store_true",
        default=None,
        help="run every step op by op, without graphs",
    )


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("KV cache")
    group.add_argument(
        "--memory-utilization",
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="share of the device memory for weights and KV cache, 0 to 1",
    )
    group.add_argument("--block-size", type=int, metavar="TOKENS", help="tokens per block")
    group.add_argument(
        "--num-blocks",
        "--num-gpu-blocks-override",
        type=int,
        metavar="N",
        help="number of blocks, instead of what the memory allows",
    )
    group.add_argument(
        "--kv-cache-dtype",
        choices=("auto", "int8", "fp8", "fp8_e4m3"),
        help="number format of keys and values (default: auto, the model's own)",
    )
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="reuse blocks of equal prompt prefixes (default: yes)",
    )


def _add_scheduler_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scheduler")
    group.add_argument("--max-num-seqs", type=int, metavar="N", help="most sequences in a step")
    group.add_argument(
        "--max-num-batched-tokens",
        type=token_count,
        metavar="TOKENS",
        help="token budget of a step, prefill and decode together",
    )
    group.add_argument("--scheduling-policy", choices=("fcfs", "priority"))
    group.add_argument(
        "--max-num-queued-reqs",
        type=int,
        metavar="N",
        help="most sequences that may wait; 0: no bound",
    )
    group.add_argument(
        "--max-num-queued-tokens",
        type=token_count,
        metavar="TOKENS",
        help="most prompt tokens that may wait; 0: no bound",
    )
    group.add_argument(
        "--step-timeout",
        type=float,
        metavar="SECONDS",
        help="how long a step may take before the engine counts as hung",
    )


def _add_constraint_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("structured output")
    group.add_argument(
        "--max-constraint-bytes", type=int, metavar="BYTES", help="longest schema or grammar"
    )
    group.add_argument(
        "--max-schema-depth", type=int, metavar="N", help="most JSON schemas inside each other"
    )
    group.add_argument(
        "--compile-cpu-seconds",
        type=float,
        metavar="SECONDS",
        help="processor time to compile a schema or grammar",
    )
    group.add_argument(
        "--compile-memory-bytes", type=int, metavar="BYTES", help="memory to compile one"
    )
    group.add_argument(
        "--compile-workers", type=int, metavar="N", help="processes that compile them"
    )
    group.add_argument(
        "--compile-cache-bytes", type=int, metavar="BYTES", help="remembered results, in bytes"
    )
    group.add_argument(
        "--logits-processors",
        nargs="+",
        metavar="NAME",
        help="plugins that requests may ask for in extra_args",
    )


def _add_pooling_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("embeddings and scores")
    group.add_argument(
        "--runner",
        choices=("auto", "generate", "pooling"),
        help="pooling: embed or score instead of generating (default: auto, by the checkpoint)",
    )
    group.add_argument(
        "--pooling",
        dest="pooling_method",
        choices=("cls", "mean", "last"),
        help="whose state stands for a text (default: as the checkpoint says)",
    )
    group.add_argument(
        "--pooling-task",
        choices=("embed", "score"),
        help="what the model does (default: by the checkpoint); score asks a language model",
    )
    group.add_argument(
        "--matryoshka",
        action="store_true",
        default=None,
        help="embeddings can be shortened although the checkpoint does not say so",
    )
    group.add_argument(
        "--max-pooling-inputs", type=int, metavar="N", help="texts or pairs of a request"
    )
    group.add_argument(
        "--max-pooling-tokens",
        type=token_count,
        metavar="TOKENS",
        help="tokens of all texts of a request together",
    )


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """Make the settings of an engine from parsed flags; without MODEL, of the demo model.

    Raises:
        ConfigError: a value is out of range; the message names the setting.
    """
    from windlass import demo_model
    from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig

    names = ("tokenizer", "revision", "dtype", "quantization", "load_format", "max_model_len")
    model = args.model or str(demo_model.path())
    cache_names = ("block_size", "num_blocks", "memory_utilization", "enable_prefix_caching")
    queue = {
        "policy": args.scheduling_policy,
        "max_queued_requests": args.max_num_queued_reqs,
        "max_queued_tokens": args.max_num_queued_tokens,
    }
    scheduler = {**_given(args, "max_num_seqs", "max_num_batched_tokens"), **_set(queue)}
    return EngineConfig(
        model=ModelConfig(model=model, **_given(args, *names, "seed")),
        cache=CacheConfig(**_given(args, *cache_names), **_set({"dtype": args.kv_cache_dtype})),
        scheduler=SchedulerConfig(**scheduler),
        backend=_backend_config(args),
        structured_output=_constraint_config(args),
        pooling=_pooling_config(args),
        logits_processors=tuple(args.logits_processors or ()),
        **_given(args, "step_timeout"),
    )


def _constraint_config(args: argparse.Namespace) -> StructuredOutputConfig:
    from windlass.config import StructuredOutputConfig

    values = {
        "max_bytes": args.max_constraint_bytes,
        "max_depth": args.max_schema_depth,
        "cpu_seconds": args.compile_cpu_seconds,
        "memory_bytes": args.compile_memory_bytes,
        "num_workers": args.compile_workers,
        "cache_bytes": args.compile_cache_bytes,
    }
    return StructuredOutputConfig(**_set(values))


def _pooling_config(args: argparse.Namespace) -> PoolingConfig:
    from windlass.config import PoolingConfig

    values = {
        "runner": args.runner,
        "method": args.pooling_method,
        "task": args.pooling_task,
        "matryoshka": args.matryoshka,
        "max_inputs": args.max_pooling_inputs,
        "max_input_tokens": args.max_pooling_tokens,
    }
    return PoolingConfig(**_set(values))


def _backend_config(args: argparse.Namespace) -> BackendConfig:
    from windlass.config import BackendConfig

    return BackendConfig(
        ops=dict(args.ops or ()),
        disabled_plugins=tuple(args.disabled_plugins or ()),
        **_given(args, "backend", "device_index", "allow_cpu_fallback", "enforce_eager"),
    )


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return _set({name: getattr(args, name) for name in names})


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
