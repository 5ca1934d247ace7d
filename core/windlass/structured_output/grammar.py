"""From a constraint to the grammar that llguidance reads."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from windlass.config import StructuredOutputConfig
from windlass.request import StructuredOutputs
from windlass.structured_output.ecma_regex import PatternError, literal, whole_pattern
from windlass.structured_output.errors import ConstraintError
from windlass.structured_output.json_schema import prepare_schema

_JSON_OPTIONS: dict[str, Any] = {
    # Between JSON's tokens: a space, or a new line with its indentation. A model may get lost in
    # more than that.
    "whitespace_pattern": r" |\r?\n[ \t]{0,64}",
    # Not \uXXXX: a further property could be called "\u0061" beside a property "a".
    "json_allowed_escapes": 'nrbtf\\"',
}

_JSON = "%json"
_LARK_TOKEN = re.compile(
    r"""//[^\n]*+ | "(?:\\.|[^"\\\n])*+" | /(?:\\.|[^/\\\n])++/ | %json""", re.VERBOSE
)


def write_grammar(constraint: StructuredOutputs, limits: StructuredOutputConfig) -> str:
    """Return the constraint as a Lark grammar of llguidance's dialect.

    Raises:
        ConstraintError: it is broken, too long, or cannot be guaranteed.
    """
    if constraint.json is not None:
        return _json_grammar(_read_schema(constraint.json, limits), limits)
    if constraint.json_object:
        return _json_grammar({"type": "object"}, limits)
    if constraint.regex is not None:
        _check_length(constraint.regex, limits)
        return _regex_grammar(constraint.regex)
    if constraint.choice is not None:
        for choice in constraint.choice:
            _check_length(choice, limits)
        return _start("|".join(literal(choice) for choice in constraint.choice))
    assert constraint.grammar is not None
    _check_length(constraint.grammar, limits)
    return _lark(constraint.grammar, limits)


def bad_words_grammar(words: list[str] | tuple[str, ...]) -> str:
    """Return the grammar of every text that holds none of these words."""
    found = "|".join(literal(word) for word in words)
    return f"start: GOOD\nGOOD: /(?s:.*)/ & ~/(?s:.*)(?:{found})(?s:.*)/\n"


def constraint_text(constraint: StructuredOutputs) -> bytes:
    """Return what identifies the constraint: equal bytes mean equal grammars.

    Raises:
        ConstraintError: a schema holds what JSON has not, or is nested too deeply.
    """
    try:
        return msgspec.json.encode(constraint)
    except (RecursionError, TypeError, ValueError) as error:
        raise ConstraintError(
            "The JSON schema is no JSON value, or is nested too deeply.", "invalid_json_schema"
        ) from error


def _check_length(text: str, limits: StructuredOutputConfig) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConstraintError(
            "The constraint holds half of a surrogate pair, which is no character.",
            "invalid_grammar",
        ) from error
    if length > limits.max_bytes:
        raise ConstraintError(
            f"The constraint has {length} bytes; the limit is {limits.max_bytes}.",
            "grammar_too_complex",
        )


def _read_schema(schema: dict[str, Any] | str, limits: StructuredOutputConfig) -> object:
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    _check_length(text, limits)
    if not isinstance(schema, str):
        return schema
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError("The JSON schema is no valid JSON.", "invalid_json_schema") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_directive(schema: object, limits: StructuredOutputConfig) -> str:
    """The schema as Lark's directive `%json` takes it."""
    prepared = prepare_schema(schema, limits.max_depth)
    if isinstance(prepared, bool):
        if not prepared:
            raise ConstraintError("The JSON schema allows no value.", "invalid_json_schema")
        prepared = {}
    return f"%json {json.dumps({**prepared, 'x-guidance': _JSON_OPTIONS})}"


def _json_grammar(schema: object, limits: StructuredOutputConfig) -> str:
    return f"start: {_json_directive(schema, limits)}\n"


def _regex_grammar(pattern: str) -> str:
    try:
        return _start(whole_pattern(pattern))
    except PatternError as error:
        raise ConstraintError(
            f"The regular expression cannot be used: {error}.", "invalid_regex"
        ) from error


def _start(regex: str) -> str:
    return f"start: TEXT\nTEXT: /{regex}/\n" if regex else 'start: ""\n'


def _lark(text: str, limits: StructuredOutputConfig) -> str:
    """Lark text whose embedded schemas are checked like any other."""
    if text.lstrip().startswith("{"):
        raise ConstraintError("The grammar must be Lark or GBNF text, not JSON.", "invalid_grammar")
    if "::=" in text:
        text = _from_gbnf(text)
    parts: list[str] = []
    at = copied = 0
    while token := _LARK_TOKEN.search(text, at):
        at = token.end()
        if token[0] == _JSON:
            schema, at = _embedded_schema(text, at)
            parts += [text[copied : token.start()], _json_directive(schema, limits)]
            copied = at
        elif _JSON in token[0]:
            raise ConstraintError(
                "%json must not stand in a text, a comment or a regular expression of a grammar.",
                "invalid_grammar",
            )
    return "".join([*parts, text[copied:]])


def _embedded_schema(text: str, at: int) -> tuple[object, int]:
    begin = at + len(text[at:]) - len(text[at:].lstrip())
    try:
        return _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        message = "After %json a JSON schema must stand."
        raise ConstraintError(message, "invalid_grammar") from error


def _from_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(text))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConstraintError(
            f"The GBNF grammar cannot be read: {reason}.", "invalid_grammar"
        ) from (error)
