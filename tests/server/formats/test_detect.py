"""A model's format is found by what its template shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from windlass.errors import ConfigError
from windlass_server.formats.detect import detect

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
MARKS = {
    "harmony": "<|start|>assistant<|channel|>final<|message|>",
    "deepseek_v3": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>x\n```json\n",
    "deepseek_v31": "<｜tool▁call▁begin｜>x<｜tool▁sep｜>",
    "kimi": "<|tool_call_begin|>x<|tool_call_argument_begin|>",
    "mistral": "[TOOL_CALLS]x[ARGS]{}",
    "mistral_array": "[TOOL_CALLS] [{}]",
    "qwen3_coder": "<tool_call>\n<function=x>\n<parameter=y>",
    "glm": "<tool_call>x\n<arg_key>y</arg_key>",
    "granite": "<|tool_call|>",
    "hermes": "<tool_call>\n{}",
    "pythonic": "[func_name1(params_name1=params_value1)]",
    "llama3_json": "<|python_tag|>",
}


@pytest.mark.parametrize("name", MARKS)
def test_marks_of_a_template(name: str) -> None:
    found = detect(TOOLS + MARKS[name], {})
    assert (found.name, found.shows_tools) == (name, True)


def test_a_template_with_tools_and_no_mark_is_taken_for_bare_json() -> None:
    assert detect(TOOLS, {}).name == "llama3_json"


def test_llama_4_writes_json_unless_its_template_asks_for_python() -> None:
    shown = '<|python_start|>{"name": x, "parameters": {}}'
    assert detect(TOOLS + shown, {}).name == "llama3_json"
    assert detect(TOOLS + "<|python_start|>", {}).name == "pythonic"


def test_reasoning_has_a_budget_where_its_end_is_one_token() -> None:
    template = TOOLS + "<think></think>"
    assert not detect(template, {}).has_reasoning_budget
    assert detect(template, {"</think>": 7}).has_reasoning_budget
    assert detect(template, {}, added_tokens={"</think>": 7}).has_reasoning_budget
    harmony = TOOLS + MARKS["harmony"]
    assert not detect(harmony, {}).has_reasoning_budget
    assert detect(harmony, {"<|end|>": 7}).has_reasoning_budget
    assert not detect(TOOLS, {"</think>": 7}).has_reasoning_budget


def test_a_template_without_tools_has_them_told_in_words() -> None:
    found = detect("{{ messages }}", {})
    assert (found.name, found.shows_tools) == ("hermes", False)


def test_without_a_template_there_are_no_tools() -> None:
    assert not detect(None, {}).has_tools


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_reasoning_is_found_by_its_tags(tags: tuple[str, str]) -> None:
    found = detect("{{ messages }}" + "".join(tags), {})
    assert found.reasoning is not None
    assert (found.reasoning.open, found.reasoning.close) == tags
    assert found.starts_in_reasoning(f"user: hello\nassistant: {tags[0]}\n")
    assert not found.starts_in_reasoning("assistant: ")


def test_special_tokens_are_kept_only_where_the_format_reads_them() -> None:
    special = {"<tool_call>": 7, "<|im_end|>": 8, "<unused>": 9}
    found = detect(TOOLS + "<tool_call><|im_end|>", special)
    assert found.keeps_special_tokens
    assert found.special_tokens == {"<tool_call>": 7, "<|im_end|>": 8}
    assert not detect(TOOLS + "<tool_call><|im_end|>", {"<|im_end|>": 8}).keeps_special_tokens


def test_flags_name_a_format_in_place_of_what_is_found() -> None:
    found = detect("{{ messages }}", {}, tool_call_parser="glm", reasoning_parser="think")
    assert found.name == "glm"
    assert found.reasoning is not None


@pytest.mark.parametrize("flag", ["tool_call_parser", "reasoning_parser"])
def test_a_format_that_is_not_there_is_named(flag: str) -> None:
    with pytest.raises(ConfigError, match=rf"{flag} must be one of .*not 'nothing'"):
        detect("x", {}, **{flag: "nothing"})


ACME = """
from windlass_server.formats.json_calls import Hermes

class AcmeCalls(Hermes):
    name = "acme"
    markers = ("<acme>",)
"""


def installed(folder: Path, module: str, target: str) -> None:
    """A distribution that names a format."""
    (folder / "acme_calls.py").write_text(module)
    info = folder / "acme_calls-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-calls\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[windlass.chat_formats]\nacme = {target}\n")


def test_a_format_of_somebody_elses_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, ACME, "acme_calls:AcmeCalls")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = detect("x", {}, tool_call_parser="acme")
    assert found.syntax is not None
    assert found.syntax.markers == ("<acme>",)


def test_a_format_that_cannot_be_loaded_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "", "acme_calls:Missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_calls", raising=False)
    with pytest.raises(ConfigError, match=r"'acme' cannot be loaded: .*Missing"):
        detect("x", {}, tool_call_parser="acme")
