"""What the tests of structured output share: an independent judge, and walks through a grammar."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation, getcontext
from typing import Any

import jsonschema
from llguidance import LLMatcher, LLTokenizer

from windlass.config import StructuredOutputConfig
from windlass.request import StructuredOutputs
from windlass.structured_output.grammar import write_grammar

LIMITS = StructuredOutputConfig()
# Divisions of long numbers, for multipleOf, are exact.
getcontext().prec = 20000
_SPACE = "\\t-\\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_ECMA = {
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[A-Za-z0-9_]",
    r"\W": "[^A-Za-z0-9_]",
    r"\s": f"[{_SPACE}]",
    r"\S": f"[^{_SPACE}]",
    "(?<": "(?P<",
    "$": r"\Z",
    ".": "[^\n\r\u2028\u2029]",
}
_ECMA_PART = re.compile(r"\\[dDwWsS]|\(\?<(?=[a-z])|\$|\\.|.", re.DOTALL)


def python_pattern(pattern: str) -> str:
    """A pattern of JSON Schema as Python's `re` reads it."""
    return _ECMA_PART.sub(lambda part: _ECMA.get(part[0], part[0]), pattern)


def _for_python(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_for_python(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: python_pattern(value)
        if key == "pattern" and isinstance(value, str)
        else {python_pattern(name): _for_python(one) for name, one in value.items()}
        if key == "patternProperties" and isinstance(value, dict)
        else _for_python(value)
        for key, value in schema.items()
    }


_FORMATS = jsonschema.FormatChecker(formats=[])


@_FORMATS.checks("date", ValueError)
def _date(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.date.fromisoformat(value))


@_FORMATS.checks("time", ValueError)
def _time(value: object) -> bool:
    if isinstance(value, str):
        return bool(datetime.time.fromisoformat(re.sub(r"\.\d+", "", value)))
    return True


@_FORMATS.checks("date-time", ValueError)
def _date_time(value: object) -> bool:
    if isinstance(value, str):
        return bool(datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", value)))
    return True


@_FORMATS.checks("ipv4", ValueError)
def _ipv4(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.IPv4Address(value))


@_FORMATS.checks("ipv6", ValueError)
def _ipv6(value: object) -> bool:
    return not isinstance(value, str) or bool(ipaddress.IPv6Address(value))


@_FORMATS.checks("uuid", ValueError)
def _uuid(value: object) -> bool:
    return not isinstance(value, str) or str(uuid.UUID(value)) == value.lower()


@_FORMATS.checks("hostname")
def _hostname(value: object) -> bool:
    label = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z")
    return not isinstance(value, str) or (
        len(value) <= 253 and all(label.match(part) for part in value.split("."))
    )


def _number(text: str) -> Decimal | float:
    """Exact, unless the exponent is beyond what Decimal knows."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return float(text)


def fault(schema: Any, text: str) -> str:
    """What is wrong with `text` under `schema`; "" where it is valid."""
    try:
        value = json.loads(text, parse_float=_number)
    except ValueError as error:
        return f"{text!r} is no JSON: {error}"
    exact = json.loads(json.dumps(_for_python(schema)), parse_float=_number)
    validator = jsonschema.Draft202012Validator(exact, format_checker=_FORMATS)
    error = next(validator.iter_errors(value), None)
    return f"{text!r}: {error.message}" if error else ""


_END = 300
_PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *(
        text.encode()
        for text in (
            '":', '",', '{"', '"}', '"a"', '": "', '\\"', "\\u00", "\\n", "é", "日本", "😀", "  ",
            "\n", "-0", "1e", "0.", "00", "true", "null", "[]", "{}", "},{", '":"', '":1', "1.5",
            "E+", "\u2028", "\r\n", "\x85", "ab",
        )
    ),
]  # fmt: skip


class _Tokens:
    """A tokenizer of all bytes and some longer pieces that cross the borders of JSON's tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = _END
    special_token_ids = (_END,)
    tokens = (*_PIECES, *[b""] * (_END - len(_PIECES)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(_Tokens(), eos_token=_END)  # type: ignore[arg-type]
_CLOSING = {i for i, piece in enumerate(_Tokens.tokens) if piece in (b'"', b"}", b"]", b'"}')}
_STRUCTURE = {
    i
    for i, piece in enumerate(_Tokens.tokens)
    if piece and set(piece) <= set(b'{}[]":,-.0123456789')
}


def grammar_of(schema: Any) -> str:
    """The grammar of a schema."""
    return write_grammar(StructuredOutputs(json=schema), LIMITS)


def accepts(grammar: str, text: str | bytes) -> bool:
    """Whether `text` is a complete output."""
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode() if isinstance(text, str) else text
    return all(matcher.try_consume_tokens([byte]) for byte in data) and matcher.is_accepting()


def walks(grammar: str, count: int, longest: int = 300) -> Iterator[str]:
    """Outputs of `count` random walks through a grammar; those that find no end are left out."""
    for seed in range(count):
        text = _walk(LLMatcher(TOKENIZER, grammar, log_level=0), random.Random(seed), longest)
        if text is not None:
            yield text


def _walk(matcher: LLMatcher, chance: random.Random, longest: int) -> str | None:
    tokens: list[int] = []
    taste = 0.3 + 0.6 * chance.random()
    while len(tokens) < longest:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [i for i in range(len(_Tokens.tokens)) if mask[i // 8] >> (i % 8) & 1]
        if _END in allowed and (len(allowed) == 1 or chance.random() < 0.3):
            return b"".join(_Tokens.tokens[token] for token in tokens).decode()
        allowed = [token for token in allowed if token != _END]
        wanted = _CLOSING if len(tokens) > longest / 2 else _STRUCTURE
        liked = [token for token in allowed if token in wanted]
        pick = liked if liked and (chance.random() < taste or wanted is _CLOSING) else allowed
        token = chance.choice(pick)
        assert matcher.consume_token(token)
        tokens.append(token)
    return None
