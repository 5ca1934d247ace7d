"""The other constraints: any object, regular expressions, choices, grammars, bad words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from output_judge import LIMITS, accepts, walks

from windlass.errors import RequestError
from windlass.request import StructuredOutputs
from windlass.structured_output.grammar import bad_words_grammar, write_grammar


def grammar(**constraint: Any) -> str:
    return write_grammar(StructuredOutputs(**constraint), LIMITS)


def test_a_json_object_is_any_object() -> None:
    for text in walks(grammar(json_object=True), 20):
        assert isinstance(json.loads(text), dict)
    assert not accepts(grammar(json_object=True), "[]")


def test_a_regular_expression_is_the_whole_output() -> None:
    digits = grammar(regex=r"^\d{2}(?:-\d)?$")
    assert accepts(digits, "42")
    assert accepts(digits, "42-1")
    assert not accepts(digits, "421")
    assert not accepts(digits, "x42")
    assert accepts(grammar(regex=r"a/b\/c"), "a/b/c")
    assert accepts(grammar(regex=""), "")


def test_a_choice_is_one_of_the_texts_to_the_letter() -> None:
    texts = ("yes", "no", 'a "quoted" \\ one', "zeile\n", "日本", "")
    choice = grammar(choice=texts)
    for text in texts:
        assert accepts(choice, text)
    assert not accepts(choice, "yesno")


def test_a_grammar_is_lark_or_gbnf() -> None:
    for text in ('start: "a"+ b\nb: /[0-9]/', 'root ::= "a"+ b\nb ::= [0-9]'):
        assert accepts(grammar(grammar=text), "aa7")
        assert not accepts(grammar(grammar=text), "7")


def test_schemas_inside_a_grammar_are_checked_like_any_other() -> None:
    text = 'start: "<" call ">" // a call\ncall: %json {"type": "string", "pattern": "^[^a\\"]$"}'
    assert accepts(grammar(grammar=text), '<"b">')
    assert not accepts(grammar(grammar=text), r'<"\"">')
    with pytest.raises(RequestError, match="'not'"):
        grammar(grammar='start: %json {"not": {}}')
    with pytest.raises(RequestError, match="'x-guidance'"):
        grammar(grammar='start: %json{"type": "string", "x-guidance": {"lenient": true}}')


@pytest.mark.parametrize(
    "wrong",
    [
        'start: "%json {}"',
        "start: /%json/",
        'start: "a" // %json {}',
        "start: %json",
        "start: %json {",
        '{"grammars": [{"json_schema": {}}]}',
        'root ::= "a',
    ],
)
def test_a_grammar_that_could_hide_a_schema_is_refused(wrong: str) -> None:
    with pytest.raises(RequestError) as caught:
        grammar(grammar=wrong)
    assert caught.value.code == "invalid_grammar"


@pytest.mark.parametrize(
    ("constraint", "code"),
    [
        ({"regex": "(?=a)"}, "invalid_regex"),
        ({"regex": "x" * (LIMITS.max_bytes + 1)}, "grammar_too_complex"),
        ({"grammar": "\ud800"}, "invalid_grammar"),
    ],
)
def test_what_is_broken_is_refused(constraint: dict[str, Any], code: str) -> None:
    with pytest.raises(RequestError) as caught:
        grammar(**constraint)
    assert (caught.value.code, caught.value.param) == (code, "structured_outputs")


def test_bad_words_are_in_no_output() -> None:
    words = ["ab", "é", '"']
    found = list(walks(bad_words_grammar(words), 30))
    assert len(found) > 20
    assert not any(word in text for text in found for word in words)
    assert accepts(bad_words_grammar(words), "a b")
