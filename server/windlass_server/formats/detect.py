"""Which format a model writes, by what its chat template shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import metadata

from windlass.errors import ConfigError
from windlass_server.formats.chat_format import ModelFormat
from windlass_server.formats.harmony import Harmony
from windlass_server.formats.history import takes_arguments_as_text
from windlass_server.formats.json_calls import (
    GRANITE,
    MISTRAL_ARRAY,
    BareJson,
    DeepSeek,
    Hermes,
    Kimi,
    MarkedName,
)
from windlass_server.formats.parser import ReasoningTags
from windlass_server.formats.pythonic import Pythonic
from windlass_server.formats.syntax import ToolSyntax
from windlass_server.formats.tagged_calls import Glm, QwenCoder

FORMATS_GROUP = "windlass.chat_formats"
"""Entry points of further syntaxes: a name, and a class or function that gives a `ToolSyntax`."""

SYNTAXES: dict[str, Callable[[], ToolSyntax]] = {
    "hermes": Hermes,
    "qwen3_coder": QwenCoder,
    "llama3_json": BareJson,
    "mistral": MarkedName,
    "mistral_array": lambda: MISTRAL_ARRAY,
    "deepseek_v3": lambda: DeepSeek(fenced=True),
    "deepseek_v31": lambda: DeepSeek(fenced=False),
    "harmony": Harmony,
    "glm": Glm,
    "kimi": Kimi,
    "granite": lambda: GRANITE,
    "pythonic": Pythonic,
}
REASONING = {
    "think": ReasoningTags("<think>", "</think>"),
    "mistral": ReasoningTags("[THINK]", "[/THINK]"),
    "granite": ReasoningTags("Here is my thought process:", "Here is my response:"),
    "seed": ReasoningTags("<seed:think>", "</seed:think>"),
}

# What a template holds, all of it -> the syntax; the first that fits.
_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>"), "harmony"),
    (("<｜tool▁call▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁call▁begin｜>",), "deepseek_v31"),
    (("<|tool_call_argument_begin|>",), "kimi"),
    (("<|im_system|>tool_declare",), "kimi"),
    (("[TOOL_CALLS]", "[ARGS]"), "mistral"),
    (("[TOOL_CALLS]",), "mistral_array"),
    (("<function=", "<parameter="), "qwen3_coder"),
    (("<arg_key>",), "glm"),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>",), "hermes"),
    (("<|python_start|>", '"parameters": '), "llama3_json"),
    (("func_name1(",), "pythonic"),
    (("<|python_start|>",), "pythonic"),
    (("<|python_tag|>",), "llama3_json"),
)
_KNOWS_TOOLS = re.compile(r"\{[%{][^{}]{0,400}\btools\b")


def detect(
    chat_template: str | None,
    special_tokens: Mapping[str, int],
    *,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
    added_tokens: Mapping[str, int] | None = None,
) -> ModelFormat:
    """Return the format of the model with this template and these special tokens.

    `added_tokens` are further texts that are one token each, which is how many models have the
    tags of reasoning.
    A template that knows tools and none of the marks is taken for bare JSON. Where it knows neither
    tools nor marks, calls are Hermes'. What a template does not show is told in words.
    `tool_call_parser` and `reasoning_parser` name a format in place of what is found.

    Raises:
        ConfigError: there is no parser of that name, or a plugin's is broken.
    """
    template = chat_template or ""
    knows_tools = bool(_KNOWS_TOOLS.search(template))
    marked = (name for marks, name in _MARKS if all(mark in template for mark in marks))
    found = tool_call_parser or next(marked, None)
    syntax = _syntax(found or ("llama3_json" if knows_tools else "hermes"))
    reasoning = _reasoning(template, reasoning_parser)
    if isinstance(syntax, Harmony):
        reasoning = None
    return ModelFormat(
        syntax=syntax if chat_template else None,
        reasoning=reasoning,
        special_tokens=_relevant(template, special_tokens, syntax),
        shows_tools=knows_tools,
        shows_calls=knows_tools or found is not None,
        arguments_as_text=takes_arguments_as_text(template),
        ids={**(added_tokens or {}), **special_tokens},
    )


def _syntax(name: str) -> ToolSyntax:
    if name in SYNTAXES:
        return SYNTAXES[name]()
    for entry in metadata.entry_points(group=FORMATS_GROUP, name=name):
        try:
            syntax = entry.load()()
        except Exception as error:
            raise ConfigError(f"the chat format {name!r} cannot be loaded: {error}") from error
        if not isinstance(syntax, ToolSyntax):
            raise ConfigError(f"the chat format {name!r} is no ToolSyntax")
        return syntax
    known = {*SYNTAXES, *(entry.name for entry in metadata.entry_points(group=FORMATS_GROUP))}
    raise ConfigError(f"tool_call_parser must be one of {', '.join(sorted(known))}, not {name!r}")


def _reasoning(template: str, name: str | None) -> ReasoningTags | None:
    if name is not None:
        if name not in REASONING:
            known = ", ".join(sorted(REASONING))
            raise ConfigError(f"reasoning_parser must be one of {known}, not {name!r}")
        return REASONING[name]
    return next((tags for tags in REASONING.values() if tags.close in template), None)


def _relevant(
    template: str, special_tokens: Mapping[str, int], syntax: ToolSyntax | None
) -> dict[str, int]:
    """The special tokens that may stand in an answer: those of the template and of the syntax."""
    markers = (*syntax.markers, *syntax.inner) if syntax else ()
    return {
        token: number
        for token, number in special_tokens.items()
        if token and (token in template or token in markers)
    }
