"""Which JSON Schemas can be guaranteed, and how they are put to llguidance.

Every keyword of a schema is either enforced, or an annotation, or refused by name. What llguidance
would take and not enforce in full is refused here, or written so that it is enforced:

- a pattern is written again (`ecma_regex`), an unanchored one with what may stand around it;
- `format` is enforced for the formats below, stricter where llguidance lets a wrong date pass;
- names of further properties may come twice, so `minProperties` above 1 is no promise;
- whole numbers beyond 2**53 would be rounded;
- an excluded whole number could be written where the other bound is near.

Draft 2020-12 is meant; of older drafts `definitions`, arrays in `items` and boolean
`exclusiveMinimum` are read as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from windlass.structured_output.ecma_regex import PatternError, search_pattern
from windlass.structured_output.errors import ConstraintError

Schema = dict[str, Any] | bool

ANNOTATIONS = frozenset(
    {
        "$anchor",
        "$comment",
        "$dynamicAnchor",
        "$schema",
        "$vocabulary",
        "title",
        "description",
        "default",
        "deprecated",
        "example",
        "examples",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
        "externalDocs",
        "nullable",
        "xml",
    }
)
"""Keywords that say nothing about which values are valid; OpenAPI's `nullable` only allows more."""

# Without the year 0, which few calendars of programming languages have.
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_LEAP}|{_LEAP}00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
# RFC 3339, without leap seconds: they exist at few instants.
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+\-]{_CLOCK})"
_STRICT_FORMATS = {
    "date": f"^(?:{_DATE})$",
    "time": f"^(?:{_TIME})$",
    "date-time": f"^(?:{_DATE}T{_TIME})$",
}
_ENFORCED_FORMATS = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
FORMATS = frozenset({*_STRICT_FORMATS, *_ENFORCED_FORMATS})
"""Formats of strings that are enforced."""

_LONGEST_HOSTNAME = 253
# The matcher computes bounds in float64 and int64: the largest that both know.
_INTEGER_FORMATS = {"int32": 2**31 - 1, "int64": 2**63 - 1024}
_NUMBER_FORMATS = frozenset({"float", "double", *_INTEGER_FORMATS})
_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_EXACT = 2**53


def prepare_schema(schema: object, max_depth: int) -> Schema:
    """Return the schema as llguidance is to read it, annotations left out.

    Raises:
        ConstraintError: it is broken, or holds what cannot be guaranteed; the keyword is named.
    """
    walk = _Walk(max_depth)
    prepared = walk.schema(schema, "#", 1)
    walk.check_references()
    return prepared


class _Walk:
    """One pass over a schema. `where` is always the JSON pointer of what is looked at."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._places: set[str] = set()
        self._references: list[tuple[str, str]] = []

    def schema(self, schema: object, where: str, depth: int) -> Schema:
        if depth > self._max_depth:
            raise ConstraintError(
                f"The JSON schema is nested more than {self._max_depth} deep.",
                "invalid_json_schema",
            )
        self._places.add(where)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _invalid("schema", where, "must be an object or a boolean")
        found: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance"):
                continue
            if keyword in ("$id", "id") and where == "#":
                continue
            found[keyword] = self._keyword(keyword, value, where, depth)
        _rewrite(found, where)
        return found

    def _keyword(self, keyword: str, value: object, where: str, depth: int) -> object:
        here = f"{where}/{_escape(keyword)}"
        if keyword in _SCHEMA_MAPS:
            return self._map(keyword, value, here, depth)
        if keyword in _SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
            return self._list(keyword, value, here, depth)
        if keyword in _SUBSCHEMAS:
            return self.schema(value, here, depth + 1)
        if keyword == "$ref":
            return self._reference(value, where)
        check = _CHECKS.get(keyword)
        if check is None:
            raise _unsupported(keyword, where, "is not supported in structured outputs")
        problem = check(value)
        if problem:
            raise _invalid(keyword, where, problem)
        return value

    def _map(self, keyword: str, value: object, where: str, depth: int) -> dict[str, Schema]:
        if not isinstance(value, dict):
            raise _invalid(keyword, where, "must be an object")
        found = {}
        for name, schema in value.items():
            prepared = self.schema(schema, f"{where}/{_escape(name)}", depth + 1)
            found[_pattern(name, where) if keyword == "patternProperties" else name] = prepared
        return found

    def _list(self, keyword: str, value: object, where: str, depth: int) -> list[Schema]:
        if not isinstance(value, list) or (not value and keyword != "items"):
            raise _invalid(keyword, where, "must be a list of at least one schema")
        return [self.schema(one, f"{where}/{i}", depth + 1) for i, one in enumerate(value)]

    def _reference(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise _invalid("$ref", where, "must be a text")
        if not (value == "#" or value.startswith("#/")):
            raise _unsupported("$ref", where, "may only point into the same schema, as '#/...'")
        self._references.append((unquote(value), where))
        return value

    def check_references(self) -> None:
        """Refuse a reference to what is no schema, for that was not looked at."""
        for target, where in self._references:
            if target not in self._places:
                raise _invalid("$ref", where, "points to no schema")


def _rewrite(schema: dict[str, Any], where: str) -> None:
    for rewrite in _REWRITES:
        rewrite(schema, where)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _place(where: str) -> str:
    return where if len(where) <= 100 else f"{where[:100]}..."


def _invalid(keyword: str, where: str, problem: str) -> ConstraintError:
    text = f"Invalid JSON schema: {keyword!r} at {_place(where)} {problem}."
    return ConstraintError(text, "invalid_json_schema")


def _unsupported(keyword: str, where: str, problem: str) -> ConstraintError:
    name = keyword if len(keyword) <= 64 else f"{keyword[:64]}..."
    text = f"The JSON schema keyword {name!r} at {_place(where)} {problem}."
    return ConstraintError(text, "unsupported_json_schema")


# -- values of keywords: each check returns what is wrong, or "" -----------------------------


def _is_count(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value < _EXACT and value == int(value):  # type: ignore[operator, call-overload]
        return ""
    return "must be a whole number of at least 0"


def _is_number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "must be a number"
    return "" if abs(value) <= _EXACT else "is too large to be exact"


def _is_bound(value: object) -> str:
    return "" if isinstance(value, bool) else _is_number(value)


def _is_divisor(value: object) -> str:
    problem = _is_number(value)
    return problem or ("" if value > 0 else "must be above 0")  # type: ignore[operator]


def _is_type(value: object) -> str:
    types = value if isinstance(value, list) else [value]
    known = bool(types) and all(isinstance(one, str) and one in _TYPES for one in types)
    return "" if known else f"must be one or several of {', '.join(sorted(_TYPES))}"


def _is_value(value: object) -> str:
    """Whether a constant is one that the matcher writes exactly."""
    waiting, depth = [value], 0
    while waiting:
        depth += 1
        if depth > 100_000:
            return "is too large"
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            if any((char < " " and char not in "\b\t\n\f\r") or char == "\x7f" for char in one):
                return "holds a control character, which outputs cannot have"
        elif one is not None and not isinstance(one, bool):
            problem = _is_number(one)
            if problem:
                return f"holds a number that {problem}"
    return ""


def _is_choice(value: object) -> str:
    if not isinstance(value, list) or not value:
        return "must be a list of at least one value"
    return _is_value(value)


def _is_names(value: object) -> str:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return "" if texts else "must be a list of texts"


def _is_text(value: object) -> str:
    return "" if isinstance(value, str) else "must be a text"


def _is_flag(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SUBSCHEMAS = frozenset({"items", "additionalItems", "additionalProperties"})
_CHECKS: dict[str, Callable[[object], str]] = {
    "type": _is_type,
    "const": _is_value,
    "enum": _is_choice,
    "minimum": _is_number,
    "maximum": _is_number,
    "exclusiveMinimum": _is_bound,
    "exclusiveMaximum": _is_bound,
    "multipleOf": _is_divisor,
    "minLength": _is_count,
    "maxLength": _is_count,
    "pattern": _is_text,
    "format": _is_text,
    "minItems": _is_count,
    "maxItems": _is_count,
    "uniqueItems": _is_flag,
    "minProperties": _is_count,
    "maxProperties": _is_count,
    "required": _is_names,
}


# -- what several keywords of one schema mean together ---------------------------------------


def _pattern(pattern: str, where: str) -> str:
    try:
        return f"^{search_pattern(pattern)}$"
    except PatternError as error:
        raise _unsupported("pattern", where, f"cannot be enforced: {error}") from error


def _rewrite_counts(schema: dict[str, Any], where: str) -> None:
    for keyword in ("minLength", "maxLength", "minItems", "maxItems"):
        if keyword in schema:
            schema[keyword] = int(schema[keyword])


def _rewrite_bounds(schema: dict[str, Any], where: str) -> None:
    """Draft 4 has booleans beside the bounds."""
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        flag = schema.get(keyword)
        if isinstance(flag, bool):
            del schema[keyword]
            if flag and bound in schema:
                schema[keyword] = schema.pop(bound)


def _rewrite_exclusive_bounds(schema: dict[str, Any], where: str) -> None:
    """llguidance 1.9 lets a whole number pass that is excluded, where the other bound is near.

    A little more is excluded instead: what lies between is as good as never written.
    """
    whole = schema.get("type") == "integer"
    for keyword, bound, sign, tighter in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        value = schema.get(keyword)
        if value is not None and value == int(value):
            del schema[keyword]
            least = int(value) + sign if whole else value + sign * max(1e-9, abs(value) * 2.0**-40)
            schema[bound] = tighter(schema.get(bound, least), least)


def _rewrite_items(schema: dict[str, Any], where: str) -> None:
    """Draft 7 has arrays in `items`, and `additionalItems` for what follows."""
    following = schema.pop("additionalItems", True)
    if isinstance(schema.get("items"), list):
        if "prefixItems" in schema:
            raise _invalid("items", where, "must be a schema beside 'prefixItems'")
        prefix = schema.pop("items")
        if prefix:
            schema["prefixItems"] = prefix
        schema["items"] = following


def _rewrite_unique_items(schema: dict[str, Any], where: str) -> None:
    if schema.pop("uniqueItems", False) and schema.get("maxItems", 2) > 1:
        raise _unsupported("uniqueItems", where, "cannot be enforced for more than one item")


def _rewrite_min_properties(schema: dict[str, Any], where: str) -> None:
    least = int(schema.get("minProperties", 0))
    if least <= len(set(schema.get("required", ()))):
        schema.pop("minProperties", None)
    elif least > 1:
        raise _unsupported(
            "minProperties", where, "cannot be enforced above 1 and the number of required names"
        )


def _rewrite_pattern(schema: dict[str, Any], where: str) -> None:
    if "pattern" in schema:
        schema["pattern"] = _pattern(schema["pattern"], where)


def _rewrite_format(schema: dict[str, Any], where: str) -> None:
    name = schema.get("format")
    if name is None:
        return
    types = schema.get("type", list(_TYPES))
    types = {types} if isinstance(types, str) else set(types)
    if "string" not in types and name in _NUMBER_FORMATS:
        del schema["format"]
        if name in _INTEGER_FORMATS:
            _bound_integer(schema, _INTEGER_FORMATS[name])
    elif name in _STRICT_FORMATS:
        del schema["format"]
        strict = _pattern(_STRICT_FORMATS[name], where)
        if "pattern" in schema:
            schema.setdefault("allOf", []).append({"pattern": strict})
        else:
            schema["pattern"] = strict
    elif name == "hostname":
        schema["maxLength"] = min(schema.get("maxLength", _LONGEST_HOSTNAME), _LONGEST_HOSTNAME)
    elif name not in _ENFORCED_FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise _unsupported("format", where, f"has a value that is not enforced; these are: {known}")


def _bound_integer(schema: dict[str, Any], limit: int) -> None:
    schema["minimum"] = max(schema.get("minimum", -limit), -limit)
    schema["maximum"] = min(schema.get("maximum", limit), limit)


_REWRITES: tuple[Callable[[dict[str, Any], str], None], ...] = (
    _rewrite_counts,
    _rewrite_bounds,
    _rewrite_exclusive_bounds,
    _rewrite_items,
    _rewrite_unique_items,
    _rewrite_min_properties,
    _rewrite_pattern,
    _rewrite_format,
)
