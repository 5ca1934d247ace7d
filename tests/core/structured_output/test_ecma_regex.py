"""Patterns of JSON Schema are matched as ECMA-262 means them, or refused."""

from __future__ import annotations

import json
import re

import pytest
from output_judge import accepts, grammar_of, python_pattern

from windlass.structured_output.ecma_regex import PatternError, search_pattern, whole_pattern

TEXTS = (
    "", "a", "b", "ab", "aab", "foo", "xbar", "abc", "a1", "42", "a\n", "\n", "\r", " ", "\x0b",
    "\u00a0", "é", "😀", '"', "\\", '["', "a-b", "]", "A", "aaa", "{", "a{", "x\u2028y", "^", "$",
)  # fmt: skip

PATTERNS = (
    "^a|b$", "^(foo|bar)$", "a{2,3}?", '^[^a-z"\\\\]{2}$', r"^\d+$", r"\W", r"^\s$", r"^\S$",
    "^.$", "^[a-]$", r"^[0-9-]+$", "a{", "^a{$", "(?:a|(?:b))b", "^(?<n>a)b$", "^a*?b$",
    r"^\x61\u0062$", "^é$", "^😀$", "^[^\\n]$", r"^\n$", r"\cJ", "", "^$", "^", "a|", r"^\^|\$$",
    "^(|a)b$", "b+$",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_finds_what_it_finds_elsewhere(pattern: str) -> None:
    grammar = grammar_of({"type": "string", "pattern": pattern})
    known = re.compile(python_pattern(pattern.replace("\\cJ", "\\n")))
    for text in TEXTS:
        found = accepts(grammar, json.dumps(text, ensure_ascii=False).replace("\\u000b", "\x0b"))
        # A vertical tab would need an escape that outputs do not have.
        assert found == (bool(known.search(text)) and "\x0b" not in text), text


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)", "lookaround"),
        ("a(?!b)", "lookaround"),
        ("(?<=a)b", "lookaround"),
        (r"(a)\1", "back references"),
        (r"(?<n>a)\k<n>", "back references"),
        (r"\bword\b", "word boundaries"),
        ("(^a)", "anchor"),
        ("a^b", "anchor"),
        ("a$b", "anchor"),
        ("(a$)", "anchor"),
        ("(?i)a", "flags"),
        ("((", "no end"),
        ("a)", "no opening"),
        ("[a", "no end"),
        ("[]a]", "allows no character"),
        ("[z-a]", "out of order"),
        (r"[\d-z]", "single ends"),
        ("a{3,1}", "out of order"),
        ("a**", "repeated"),
        ("a{2}{3}", "repeated"),
        ("*a", "nothing stands before"),
        (r"\u12", "broken"),
        (r"\u{110000}", "beyond Unicode"),
        (r"\q", "not known"),
        ("\\", "not known"),
        (r"\p{Script=Greek}", "general categories"),
        ("(" * 65 + ")" * 65, "nested more than 64"),
    ],
)
def test_what_an_automaton_cannot_decide_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        search_pattern(pattern)


def test_groups_may_be_nested_up_to_the_limit() -> None:
    assert search_pattern("(" * 64 + "a" + ")" * 64)


def test_a_category_of_unicode_is_a_set_of_its_characters() -> None:
    grammar = grammar_of({"type": "string", "pattern": r"^\p{Lu}\P{L}$"})
    assert accepts(grammar, '"Ä1"')
    assert not accepts(grammar, '"ä1"')
    assert not accepts(grammar, '"Äb"')


def test_anchors_of_a_whole_pattern_are_optional() -> None:
    assert whole_pattern("^ab$") == whole_pattern("ab")
