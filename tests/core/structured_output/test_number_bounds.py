"""Bounds of numbers hold to the digit, for every pair of them."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from llguidance import LLMatcher
from output_judge import TOKENIZER, grammar_of

BOUNDS = (None, -10, -2.5, -1, -0.25, 0, 0.001, 0.25, 1, 1.5, 10, 10.5)
STEPS = ("0", "0.001", "-0.001", "0.2", "-0.2", "1", "-1", "10")
NUMBERS = sorted(
    {str(Decimal(str(bound)) + Decimal(step)) for bound in BOUNDS[1:] for step in STEPS}
    | {"-0", "0.0", "-0.0", "1.0", "10.00", "1e0", "1e1", "-1e1", "25e-2", "0.250", "0e5", "1e-1"}
)


def schemas(kind: str) -> list[dict[str, Any]]:
    low, high = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
    found = []
    for lower, upper, least, most in product(BOUNDS, BOUNDS, low, high):
        bounds = {least: lower, most: upper}
        found.append({"type": kind, **{k: v for k, v in bounds.items() if v is not None}})
    return found


def holds(schema: dict[str, Any], number: Decimal) -> bool:
    exact = {key: Decimal(str(value)) for key, value in schema.items() if key != "type"}
    return (
        number >= exact.get("minimum", number)
        and number <= exact.get("maximum", number)
        and not ("exclusiveMinimum" in exact and number <= exact["exclusiveMinimum"])
        and not ("exclusiveMaximum" in exact and number >= exact["exclusiveMaximum"])
    )


@pytest.mark.parametrize("kind", ["number", "integer"])
def test_no_number_outside_of_its_bounds_is_allowed(kind: str) -> None:
    allowed = 0
    for schema in schemas(kind):
        start = LLMatcher(TOKENIZER, grammar_of(schema), log_level=0)
        if start.is_error():  # no number lies between such bounds
            continue
        for text in NUMBERS:
            matcher = start.deep_copy()
            if matcher.try_consume_tokens(list(text.encode())) < len(text):
                continue
            if matcher.is_accepting():
                allowed += 1
                assert holds(schema, Decimal(text)), (schema, text)
    assert allowed > 1000
