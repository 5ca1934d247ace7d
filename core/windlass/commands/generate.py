"""`windlass generate`: completions of prompts, offline."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from windlass.errors import ConfigError

if TYPE_CHECKING:
    from windlass.request import RequestOutput

HELP = "complete prompts offline, from --prompt or one per line of the standard input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass generate`, and those of the engine."""
    from windlass.arguments import add_engine_arguments

    group = parser.add_argument_group("prompts and sampling")
    group.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; may be given many times"
    )
    group.add_argument("--max-tokens", type=int, default=128, help="longest completion")
    group.add_argument("--temperature", type=float, help="0 is greedy (default: the model's)")
    group.add_argument("--json", action="store_true", help="print a JSON object per prompt")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Complete every prompt and print prompt and completion, in order."""
    import msgspec

    from windlass.arguments import engine_config
    from windlass.llm import LLM

    prompts = args.prompt or _prompts_from_input()
    with LLM.from_config(engine_config(args)) as llm:
        changes: dict[str, Any] = {"max_tokens": args.max_tokens}
        if args.temperature is not None:
            changes["temperature"] = args.temperature
        sampling = msgspec.structs.replace(llm.get_default_sampling_params(), **changes)
        outputs = llm.generate(prompts, sampling)
    for output in outputs:
        _print(output, as_json=args.json)
    return 0


def _prompts_from_input() -> list[str]:
    if sys.stdin.isatty():
        raise ConfigError("nothing to complete: give --prompt, or prompts on the standard input")
    prompts = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if not prompts:
        raise ConfigError("the standard input holds no prompt; it is read one prompt per line")
    return prompts


def _print(output: RequestOutput, *, as_json: bool) -> None:
    completion = output.outputs[0]
    if not as_json:
        print(f"{output.prompt}{completion.text}")
        return
    result = {
        "prompt": output.prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "output_tokens": len(completion.token_ids),
    }
    print(json.dumps(result, ensure_ascii=False))
