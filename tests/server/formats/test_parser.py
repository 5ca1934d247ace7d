"""What models write is read as reasoning, text and calls, however it is cut."""

from __future__ import annotations

import json

import pytest
from answers import ANSWERS, HAULED, Read
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_server.formats.detect import REASONING, SYNTAXES

FORMATS = sorted(SYNTAXES)
AT_START = ("llama3_json", "pythonic")
CALL = '<tool_call>\n{"name": "rest", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_calls_read(name: str) -> None:
    said = Read(name)(ANSWERS[name])
    assert [call for call, _ in said.calls] == ["haul", "rest"]
    assert said.arguments == [HAULED, {}]
    assert said.content.strip() == ""


def test_ids_that_a_model_writes_are_kept() -> None:
    assert Read("kimi")(ANSWERS["kimi"]).ids == ["functions.haul:0", "functions.rest:1"]
    written = '[TOOL_CALLS][{"name": "rest", "arguments": {}, "id": "a1b2c3d4e"}]'
    assert Read("mistral_array")(written).calls == [("rest", "{}")]
    assert Read("mistral")("[TOOL_CALLS]rest[CALL_ID]a1b2c3d4e[ARGS]{}").ids == ["a1b2c3d4e"]


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in (*AT_START, "harmony")])
def test_text_and_reasoning_stand_before_calls(name: str) -> None:
    said = Read(name)(f"<think>Hm <b> \n</think>\n\nSo: {ANSWERS[name]}")
    assert said.reasoning == "Hm <b> \n"
    assert said.content.strip() == "So:"
    assert said.arguments == [HAULED, {}]


def test_a_prompt_may_have_begun_the_reasoning() -> None:
    said = Read("hermes")("so </thi then</think>Yes", in_reasoning=True)
    assert (said.reasoning, said.content) == ("so </thi then", "Yes")


def test_harmony_has_channels() -> None:
    said = Read("harmony")(
        "<|channel|>analysis<|message|>Rope first.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Let me haul.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    )
    assert (said.reasoning, said.content) == ("Rope first.", "Let me haul.Done.")
    assert Read("harmony")("No channel at all.").content == "No channel at all."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call> is a tag"),
        ("hermes", '<tool_call>{"title": "no call"}'),
        ("hermes", '<tool_call>{"name": "haul"'),
        ("hermes", "a <tool_cal"),
        ("llama3_json", '{"title": "an answer in JSON", "name": "x"}'),
        ("llama3_json", '{"name": "unknown", "parameters": {}}'),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[haul(rope=print)]"),
        ("pythonic", "[__import__('os').system('x')]"),
        ("pythonic", "[haul("),
        ("glm", "<tool_call>two words\n"),
        ("qwen3_coder", "<tool_call>\n<fun"),
        ("mistral", "[TOOL_CALLS]haul now"),
        ("kimi", "<|tool_call_begin|>functions.haul"),
        ("pythonic", "[haul(rope='a', rope='b')]"),
        ("pythonic", "[haul(rope=" + "[" * 100 + "]" * 100 + ")]"),
        ("pythonic", "[haul(metres=1e999)]"),
    ],
)
def test_what_turns_out_to_be_no_call_is_text(name: str, text: str) -> None:
    said = Read(name, None)(text)
    assert said.calls == []
    assert said.content == text


def test_a_call_follows_what_was_none() -> None:
    said = Read("hermes", None)(f"<tool_call>oops {CALL}")
    assert said.content == "<tool_call>oops "
    assert said.calls == [("rest", "{}")]


@pytest.mark.parametrize("cut", ["", ' "bow', ' "bow", "met', ' "bow", "metres": 3'])
def test_a_call_that_was_cut_keeps_what_it_has(cut: str) -> None:
    said = Read("hermes")('<tool_call>{"name": "haul", "arguments": {"rope":' + cut)
    assert said.calls == [("haul", '{"rope":' + cut)]


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm"])
def test_markup_that_was_cut_behind_a_call_is_no_text(name: str) -> None:
    answer, end = ANSWERS[name], "</tool_call>"
    before = answer[: answer.rindex(end)]
    for length in range(len(end)):
        said = Read(name)(*(before + end[:length]))
        assert said == Read(name)(before + end), end[:length]


def test_a_call_that_was_cut_before_its_arguments_has_none() -> None:
    assert Read("hermes")('<tool_call>{"name": "haul", "arguments": ').calls == [("haul", "")]
    assert Read("hermes")('<tool_call>{"name": "haul"}').calls == [("haul", "{}")]


def test_arguments_may_be_a_text_of_json_or_null() -> None:
    inner = json.dumps(json.dumps(HAULED))
    said = Read("hermes")(f'<tool_call>{{"name": "haul", "arguments": {inner}}}</tool_call>')
    assert said.arguments == [HAULED]
    said = Read("hermes")('<tool_call>{"name": "rest", "arguments": null}</tool_call>')
    assert said.calls == [("rest", "{}")]


@pytest.mark.parametrize("name", ["qwen3_coder", "glm"])
def test_values_between_tags_have_the_types_of_the_schema(name: str) -> None:
    text = ANSWERS[name].replace('a "b" }{', "42")
    assert Read(name)(text).arguments[0] == {"rope": "42", "metres": 3}


def test_without_tools_a_tag_is_text() -> None:
    parser = Read("hermes").format.parser([], in_reasoning=False)
    events = [*parser.feed(CALL), *parser.finish()]
    assert "".join(event.text for event in events) == CALL


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r"'it\'s'", "it's"),
        (r'"\u00e9\x41\n\/\d"', "éA\n/\\d"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\ud83d"', "\N{REPLACEMENT CHARACTER}"),
        (r'"\U00110000 \u12"', r"\U00110000 \u12"),
        ("-1.5e3", -1500.0),
        ("[True, false, None, null,]", [True, False, None, None]),
        ("({'a': (1, 2)}, {})", [{"a": [1, 2]}, {}]),
    ],
)
def test_python_literals(literal: str, value: object) -> None:
    assert Read("pythonic")(f"[haul( rope = {literal} ,), rest()]").arguments == [
        {"rope": value},
        {},
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", r'<tool_call>{"name": "h\ud800", "arguments": {}}'),
        ("hermes", r'<tool_call>{"name": "haul", "arguments": "{\"a\": \"\ud800\"}"}'),
        ("mistral_array", r'[TOOL_CALLS][{"name": "haul", "id": "\udfff", "arguments": {}}]'),
        ("pythonic", r"[haul(rope='\ud800')]"),
    ],
)
def test_half_a_surrogate_pair_is_replaced(name: str, text: str) -> None:
    """A model may write such an escape; UTF-8 has no character for it."""
    said = Read(name)(text)
    ((called, arguments),) = said.calls
    assert "\N{REPLACEMENT CHARACTER}" in called + arguments + str(said.ids)
    (called + arguments + str(said.ids)).encode()


def test_arguments_that_hold_deep_json_as_text_are_given_as_they_are() -> None:
    deep = json.dumps("[" * 100_000)
    said = Read("hermes")(f'<tool_call>{{"name": "haul", "arguments": {deep}}}</tool_call>')
    assert said.calls == [("haul", deep)]


def test_an_id_of_kimis_may_lack_its_number() -> None:
    said = Read("kimi")("<|tool_call_begin|>rest<|tool_call_argument_begin|>{}<|tool_call_end|>")
    assert (said.calls, said.ids) == ([("rest", "{}")], ["rest"])


def test_a_harmony_call_without_arguments() -> None:
    said = Read("harmony")("<|channel|>commentary to=functions.rest<|message|> <|call|>")
    assert said.calls == [("rest", "{}")]
    said = Read("harmony")("<|channel|>commentary to=functions.<|message|>{}<|call|>")
    assert (said.calls, said.content) == ([], "{}")


@pytest.mark.parametrize(
    ("name", "begun", "bad"),
    [
        ("glm", "<tool_call>haul\n", "<arg_key>rope</arg_key>oops"),
        ("qwen3_coder", "<tool_call>\n<function=haul>\n", "<parameter=rope oops\n"),
    ],
)
def test_a_tag_that_is_none_ends_a_call_and_is_text(name: str, begun: str, bad: str) -> None:
    said = Read(name)(begun + bad)
    assert (said.calls, said.content.strip()) == ([("haul", "{}")], bad.strip())


MARKERS = {marker for name in FORMATS for marker in SYNTAXES[name]().markers}
MARKERS |= {tag for tags in REASONING.values() for tag in (tags.open, tags.close)}
PIECES = [*sorted(MARKERS), *'<>{}[]()"\\,:;=|/ \n0aé🐈']
PIECES += ["</tool_call>", "[ARGS]", "<function=haul>", "<parameter=rope>", "haul"]
PIECES += [
    "<｜tool▁sep｜>",
    "analysis",
    "final",
    " to=functions.haul",
    "<|tool_call_argument_begin|>",
]
PIECES += ['{"name": "haul", ', '"arguments": {', "<arg_key>", "</arg_value>", "[haul(", "rope='x'"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), noise=st.lists(st.sampled_from(PIECES), max_size=25), at=st.integers(0, 400))
@pytest.mark.parametrize("name", FORMATS)
def test_how_an_answer_is_cut_makes_no_difference(
    name: str, data: st.DataObject, noise: list[str], at: int
) -> None:
    """Good answers with noise somewhere in them, cut at every character and at random."""
    good = ANSWERS[name]
    text = good[: at % (len(good) + 1)] + "".join(noise) + good[at % (len(good) + 1) :]
    read = Read(name)
    whole = read(text)
    assert read(*text) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(*pieces) == whole


FILLERS = ["[", "{", '"', "<", "<tool_call>", "a", "(", "\\", "[TOOL_CALLS]"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("filler", FILLERS)
def test_a_long_answer_is_given_back(name: str, filler: str) -> None:
    """100 kB of what never becomes a call, a few characters at a time."""
    text = (filler * (100_000 // len(filler)))[:100_000]
    said = Read(name, None)(*(text[i : i + 7] for i in range(0, len(text), 7)))
    assert said.calls == []
    assert said.content == text


@pytest.mark.parametrize(
    ("name", "filler"),
    [("hermes", "<tool_call>"), ("glm", "</think>"), ("mistral", "[TOOL_CALLS]"), ("kimi", "<")],
)
def test_an_answer_of_megabytes_is_read_at_once(name: str, filler: str) -> None:
    """Reading is linear: looking ahead from every marker would take minutes here."""
    said = Read(name)(filler * 100_000)
    assert said.calls == []
