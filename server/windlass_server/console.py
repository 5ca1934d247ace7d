"""What `windlass serve` prints on standard output."""

from __future__ import annotations

import sys

from windlass.config import ModelInfo
from windlass_server.settings import ServerSettings

DEMO_NOTICE = (
    "No model was named: serving the embedded demo model, a tiny one that knows its own little "
    "world.\nName another with: windlass serve MODEL (a folder or a Hugging Face id)."
)


def ready_text(settings: ServerSettings, info: ModelInfo | None, address: str) -> str:
    """Return the address and two ways to try it. `address` is what clients connect to.

    `info` is of the default model, None as long as nobody has asked for it.
    """
    name, base = settings.model_name, f"{address}{settings.root_path.rstrip('/')}/v1"
    route, fields, call = _example(info)
    body = f'{{"model": "{name}", {fields}}}'
    key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.access.has_keys else ""
    socket = f"--unix-socket {settings.uds} " if settings.uds else ""
    page = settings.ui and not settings.uds
    others = [model.name for model in settings.models[1:]]
    lines = [
        f"Windlass serves {name}{_device(info)} at {address}",
        *([f"Other models, loaded when they are asked for: {', '.join(others)}"] if others else []),
        *([f"The page for people: {address}{settings.root_path.rstrip('/')}/"] if page else []),
        "",
        "Try it:",
        f"  curl {socket}{base}/{route} -H 'Content-Type: application/json'{key} -d '{body}'",
    ]
    if call and not settings.uds:
        python_key = "YOUR_KEY" if settings.access.has_keys else "none"
        lines += [
            "or in Python (pip install openai):",
            "  from openai import OpenAI",
            f'  client = OpenAI(base_url="{base}", api_key="{python_key}")',
            f'  print(client.{call[0]}(model="{name}", {call[1]})',
        ]
    return "\n".join([*lines, "", "Press Ctrl+C to stop."])


def _device(info: ModelInfo | None) -> str:
    if info is None:
        return ", which is loaded when it is asked for,"
    weights = f", {info.quantization} weights" if info.quantization else ""
    return f" on {info.backend} ({info.device}, {info.dtype}{weights})"


def _example(info: ModelInfo | None) -> tuple[str, str, tuple[str, str] | None]:
    """Route, fields of its body, and in Python the method with what follows the model's name."""
    if info is None or info.pooling is None:
        fields = '"messages": [{"role": "user", "content": "Hello!"}]'
        rest = 'messages=[{"role": "user", "content": "Hello!"}]).choices[0].message.content'
        return "chat/completions", fields, ("chat.completions.create", rest)
    if info.pooling.task == "embed":
        return "embeddings", '"input": "Hello!"', ("embeddings.create", 'input="Hello!").data[0]')
    return "rerank", '"query": "Hello?", "documents": ["Hello!", "No."]', None


def print_ready(text: str) -> None:
    """Print to standard output, with colour when it is a terminal."""
    if not sys.stdout.isatty():
        print(text, flush=True)
        return
    from rich.console import Console

    head, _, rest = text.partition("\n")
    console = Console()
    console.print(head, style="bold green", highlight=False, markup=False)
    console.print(rest, highlight=False, markup=False, soft_wrap=True)
