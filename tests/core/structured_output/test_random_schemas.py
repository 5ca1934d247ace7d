"""Schemas put together at random: keywords meet that no hand would have written together."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from output_judge import LIMITS, TOKENIZER, fault, walks

from windlass.errors import RequestError
from windlass.request import SamplingParams, StructuredOutputs
from windlass.structured_output.matcher import compile_matcher, write_constraint

NAMES = ("a", "b", "n_x", "s_y", "é", 'q"', "type")
PATTERNS = ("^a", "b$", "[0-9]+", "^[^a]*$", "a|b", "^n_", '^[^"a-z]{1,3}$', r"\d\D", "^.{2,3}$")
VALUES = (1, 2, "a", "b", None, True, [1], {"a": 1}, 2.5, "n_x", "x\n", 0, False)
NUMBERS = (-3, -1, 0, 1, 2, 5, 10, 1.5, 0.25, -2.5, 100)
FORMATS = ("date", "ipv4", "uuid", "time", "ipv6", "hostname", "date-time")


class Author:
    """Writes schemas of bounded depth."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def write(self) -> dict[str, Any]:
        """A schema with two definitions that it may refer to."""
        return {**self._schema(3), "$defs": {"x": self._schema(1), "y": self._schema(2)}}

    def _schema(self, depth: int) -> dict[str, Any]:
        kinds: list[Callable[[int], dict[str, Any]]]
        kinds = [self._number, self._text, self._values]
        if depth:
            kinds += [self._array, self._object, self._object, lambda _: {}]
        found = self._chance.choice(kinds)(depth)
        if depth:
            for keyword in ("anyOf", "allOf", "oneOf"):
                if not found or self._sometimes(0.1):
                    found[keyword] = [self._schema(depth - 1) for _ in range(1 + depth % 2)]
        if self._sometimes(0.05):
            found["$ref"] = self._chance.choice(("#/$defs/x", "#/$defs/y"))
        keywords = list(found.items())
        self._chance.shuffle(keywords)
        return dict(keywords)

    def _sometimes(self, share: float) -> bool:
        return self._chance.random() < share

    def _some(self, share: float, **values: Callable[[], Any]) -> dict[str, Any]:
        return {name: value() for name, value in values.items() if self._sometimes(share)}

    def _number(self, _: int) -> dict[str, Any]:
        types = ("integer", "number", ["integer", "null"], ["number", "string"])
        number = lambda: self._chance.choice(NUMBERS)  # noqa: E731
        bounds = self._some(
            0.3,
            minimum=number,
            maximum=number,
            exclusiveMinimum=number,
            exclusiveMaximum=number,
            multipleOf=lambda: self._chance.choice((1, 2, 3, 0.5, 7)),
        )
        return {"type": self._chance.choice(types), **bounds}

    def _text(self, _: int) -> dict[str, Any]:
        return {
            "type": self._chance.choice(("string", ["string", "integer"])),
            **self._some(0.5, maxLength=lambda: self._chance.randint(1, 6)),
            **self._some(0.4, minLength=lambda: self._chance.randint(0, 3)),
            **self._some(0.5, pattern=lambda: self._chance.choice(PATTERNS)),
            **self._some(0.15, format=lambda: self._chance.choice(FORMATS)),
        }

    def _values(self, _: int) -> dict[str, Any]:
        if self._sometimes(0.3):
            return {"const": self._chance.choice(VALUES)}
        return {"enum": self._chance.sample(VALUES, self._chance.randint(1, 5))}

    def _array(self, depth: int) -> dict[str, Any]:
        return {
            "type": "array",
            **self._some(0.7, items=lambda: self._schema(depth - 1)),
            **self._some(0.4, prefixItems=lambda: [self._schema(depth - 1)]),
            **self._some(0.4, minItems=lambda: self._chance.randint(0, 3)),
            **self._some(0.6, maxItems=lambda: self._chance.randint(0, 4)),
        }

    def _object(self, depth: int) -> dict[str, Any]:
        def properties() -> dict[str, Any]:
            names = self._chance.sample(NAMES, self._chance.randint(1, 4))
            return {name: self._schema(depth - 1) for name in names}

        return {
            "type": "object",
            **self._some(0.8, properties=properties),
            **self._some(0.5, required=lambda: self._chance.sample(NAMES, 2)),
            **self._some(0.3, additionalProperties=lambda: self._schema(depth - 1)),
            **self._some(0.2, additionalProperties=lambda: False),
            **self._some(
                0.2,
                patternProperties=lambda: {self._chance.choice(PATTERNS): self._schema(depth - 1)},
            ),
            **self._some(0.15, minProperties=lambda: self._chance.randint(0, 2)),
            **self._some(0.15, maxProperties=lambda: self._chance.randint(0, 3)),
        }


@pytest.mark.parametrize("part", range(4))
def test_outputs_of_random_schemas_are_valid_or_the_schema_is_refused(part: int) -> None:
    accepted = finished = 0
    refusals: set[str] = set()
    for seed in range(60 * part, 60 * part + 60):
        schema = Author(seed).write()
        params = SamplingParams(structured_outputs=StructuredOutputs(json=schema))
        try:
            grammar = write_constraint(params, LIMITS)
            compile_matcher(TOKENIZER, grammar)
        except RequestError as error:
            refusals.add(error.code)
            continue
        accepted += 1
        for text in walks(grammar, 4, longest=120):
            finished += 1
            assert fault(schema, text) == "", schema
    assert refusals <= {"unsupported_json_schema", "invalid_json_schema"}
    assert accepted > 20
    assert finished > 60
