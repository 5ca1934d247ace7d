"""Varied JSON Schemas (draft 2020-12), by name: what structured output is tested and measured on.

`SCHEMAS` can be guaranteed; of `REFUSED` a keyword, named in the second place, cannot.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(properties: Schema, *required: str, **more: Any) -> Schema:  # noqa: ANN401
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


_STRING: Schema = {"type": "string"}
_SHORT: Schema = {"type": "string", "maxLength": 6}
_INTEGER: Schema = {"type": "integer"}

_NUMBERS: dict[str, Schema] = {
    "integer": _INTEGER,
    "number": {"type": "number"},
    "integer_range": {"type": "integer", "minimum": -17, "maximum": 4711},
    "integer_minimum": {"type": "integer", "minimum": 123},
    "integer_maximum": {"type": "integer", "maximum": -5},
    "integer_exclusive": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
    "integer_fraction_bounds": {"type": "integer", "minimum": 0.5, "maximum": 3.5},
    "number_range": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "number_minimum": {"type": "number", "minimum": 0.001},
    "number_exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "number_small": {"type": "number", "minimum": 0, "maximum": 1e-3},
    "integer_multiple": {"type": "integer", "multipleOf": 7},
    "integer_multiple_range": {"type": "integer", "multipleOf": 5, "minimum": 3, "maximum": 99},
    "number_multiple_integer": {"type": "number", "multipleOf": 3},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "large_bounds": {"type": "integer", "minimum": 0, "maximum": 9007199254740991},
    "integer_or_null": {"type": ["integer", "null"], "minimum": 1},
}

_STRINGS: dict[str, Schema] = {
    "string": _STRING,
    "string_lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "string_min_length": {"type": "string", "minLength": 4},
    "string_empty": {"type": "string", "maxLength": 0},
    "pattern_anchored": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "pattern_search": {"type": "string", "pattern": "ab+c", "maxLength": 12},
    "pattern_start": {"type": "string", "pattern": "^x", "maxLength": 8},
    "pattern_end": {"type": "string", "pattern": "end$", "maxLength": 8},
    "pattern_alternatives": {"type": "string", "pattern": "^(foo|bar|qux)$"},
    "pattern_open_alternatives": {"type": "string", "pattern": "^a|b$", "maxLength": 6},
    "pattern_classes": {"type": "string", "pattern": r"^\d{3}\w\s\S\D\W$"},
    "pattern_dot": {"type": "string", "pattern": "^.{4}$"},
    "pattern_unicode": {"type": "string", "pattern": "^[äöü]+é?$", "maxLength": 5},
    "pattern_escapes": {"type": "string", "pattern": r"^\"\\\/\.\[\]\{\}$"},
    "pattern_control": {"type": "string", "pattern": r"^\t\n\r\x41\u0042$"},
    "pattern_negated": {"type": "string", "pattern": '^[^a-z"\\\\]{2,4}$'},
    "pattern_lazy": {"type": "string", "pattern": "^a+?b*?c$", "maxLength": 9},
    "pattern_group": {"type": "string", "pattern": "^(?:ab)+(?<year>[0-9]{4})$", "maxLength": 10},
    "pattern_and_length": {"type": "string", "pattern": "^[0-9]+$", "minLength": 2, "maxLength": 4},
    "format_date": {"type": "string", "format": "date"},
    "format_time": {"type": "string", "format": "time"},
    "format_date_time": {"type": "string", "format": "date-time"},
    "format_duration": {"type": "string", "format": "duration"},
    "format_email": {"type": "string", "format": "email"},
    "format_hostname": {"type": "string", "format": "hostname"},
    "format_ipv4": {"type": "string", "format": "ipv4"},
    "format_ipv6": {"type": "string", "format": "ipv6"},
    "format_uuid": {"type": "string", "format": "uuid"},
    "format_uri": {"type": "string", "format": "uri"},
    "format_and_pattern": {"type": "string", "format": "date", "pattern": "^20"},
}

_CHOICES: dict[str, Schema] = {
    "enum_strings": {"enum": ["red", "green", "blue"]},
    "enum_typed": {"type": "string", "enum": ["a", "b\n", 'c"d', "é", "😀"]},
    "enum_mixed": {"enum": [1, 2.5, "x", None, True, [1, "2"], {"k": 0}]},
    "enum_filtered": {"type": "integer", "enum": [1, "a", 3, 4.5], "minimum": 2},
    "const_string": {"const": "fixed"},
    "const_number": {"const": 12.5},
    "const_null": {"const": None},
    "const_object": {"const": {"a": [1, {"b": "c"}], "d": False}},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "types": {"type": ["string", "boolean", "null"], "maxLength": 5},
    "untyped_bounds": {"minimum": 5, "maximum": 8, "maxLength": 3, "maxItems": 1},
    "any_of": {"anyOf": [_INTEGER, {"type": "string", "maxLength": 4}]},
    "any_of_siblings": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}},
        "required": ["kind"],
        "anyOf": [
            {"properties": {"x": _INTEGER}, "required": ["x"], "additionalProperties": False},
            {"properties": {"y": {"type": "boolean"}}, "required": ["y"]},
        ],
    },
    "one_of_types": {"oneOf": [_INTEGER, _STRING, {"type": "null"}]},
    "one_of_discriminated": {
        "oneOf": [
            _object({"type": {"const": "circle"}, "r": {"type": "number"}}, "type", "r"),
            _object({"type": {"const": "square"}, "a": {"type": "number"}}, "type", "a"),
        ]
    },
    "one_of_siblings": {
        "type": "object",
        "properties": {"id": _INTEGER},
        "required": ["id"],
        "oneOf": [
            {"properties": {"type": {"const": "x"}, "v": _INTEGER}, "required": ["type", "v"]},
            {"properties": {"type": {"const": "y"}, "w": _SHORT}, "required": ["type", "w"]},
        ],
    },
    "one_of_property_siblings": _object(
        {
            "value": {
                "oneOf": [{"type": "integer"}, {"type": "string"}],
                "minimum": 10,
                "maxLength": 3,
            }
        },
        "value",
    ),
    "all_of": {
        "allOf": [
            {"type": "object", "properties": {"a": _INTEGER}, "required": ["a"]},
            {"properties": {"b": _SHORT}, "required": ["b"]},
        ]
    },
    "all_of_bounds": {
        "allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 30}, {"multipleOf": 4}]
    },
}

_ARRAYS: dict[str, Schema] = {
    "array": {"type": "array"},
    "array_items": {"type": "array", "items": {"type": "boolean"}},
    "array_counts": {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 4},
    "array_min": {"type": "array", "items": {"enum": [0, 1]}, "minItems": 3},
    "array_empty": {"type": "array", "maxItems": 0},
    "array_nested": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
        "maxItems": 3,
    },
    "prefix_items": {"type": "array", "prefixItems": [_INTEGER, _SHORT], "items": False},
    "prefix_items_required": {
        "type": "array",
        "prefixItems": [_INTEGER, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "prefix_items_more": {
        "type": "array",
        "prefixItems": [{"const": "head"}],
        "items": {"type": "number", "minimum": 0},
        "minItems": 1,
        "maxItems": 4,
    },
    "array_of_objects": {"type": "array", "items": _object({"n": _INTEGER}, "n"), "minItems": 1},
    "array_of_any": {"type": "array", "items": {}, "maxItems": 3},
    "array_of_unions": {"type": "array", "items": {"anyOf": [{"const": 1}, {"const": "1"}]}},
    "unique_one": {"type": "array", "items": _INTEGER, "maxItems": 1, "uniqueItems": True},
    "not_unique": {"type": "array", "items": _INTEGER, "uniqueItems": False},
}

_OBJECTS: dict[str, Schema] = {
    "object": {"type": "object"},
    "object_closed": _object({"name": _STRING, "age": _INTEGER}, "name", "age"),
    "object_optional": _object({"a": _INTEGER, "b": _SHORT, "c": {"type": "null"}}, "b"),
    "object_all_optional": _object({"a": _INTEGER, "b": _INTEGER}),
    "object_open": {"type": "object", "properties": {"a": _INTEGER}, "required": ["a"]},
    "object_additional": {"type": "object", "additionalProperties": {"type": "integer"}},
    "object_mixed": {
        "type": "object",
        "properties": {"id": _SHORT},
        "required": ["id"],
        "additionalProperties": {"type": "boolean"},
    },
    "object_required_unlisted": {
        "type": "object",
        "required": ["z"],
        "additionalProperties": {"type": "integer"},
    },
    "object_empty": {"type": "object", "additionalProperties": False},
    "object_odd_names": _object(
        {'a"b': _INTEGER, "c\\d": _INTEGER, "é😀": _INTEGER, "": _INTEGER, "tab\t": _INTEGER},
        'a"b',
        "c\\d",
    ),
    "object_open_odd_names": {
        "type": "object",
        "properties": {"a/b": _INTEGER, "tab\t": _INTEGER, "é": _INTEGER, "\u0001": _INTEGER},
    },
    "object_forbidden_property": {
        "type": "object",
        "properties": {"a": False, "b": {"type": "boolean"}},
    },
    "pattern_properties": {
        "type": "object",
        "patternProperties": {"^n_": _INTEGER, "^s_": _SHORT},
        "additionalProperties": False,
    },
    "pattern_properties_open": {
        "type": "object",
        "properties": {"id": _INTEGER},
        "patternProperties": {"^x-": {"type": "boolean"}},
        "additionalProperties": _SHORT,
        "required": ["id"],
    },
    "pattern_properties_overlap": {
        "type": "object",
        "properties": {"n_total": {"minimum": 10}},
        "patternProperties": {"^n_": _INTEGER},
        "required": ["n_total"],
        "additionalProperties": False,
    },
    "min_properties_one": {
        "type": "object",
        "additionalProperties": _INTEGER,
        "minProperties": 1,
    },
    "max_properties": {"type": "object", "additionalProperties": _INTEGER, "maxProperties": 2},
    "nested": _object(
        {"user": _object({"name": _SHORT, "tags": {"type": "array", "items": _SHORT}}, "name")},
        "user",
    ),
    "many_optional": _object({f"p{i}": {"type": "boolean"} for i in range(25)}),
    "annotated": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/person",
        "$comment": "annotations change nothing",
        "title": "Person",
        "description": "A person",
        "type": "object",
        "properties": {
            "name": {
                **_SHORT,
                "title": "Name",
                "examples": ["Ada"],
                "default": "Ada",
                "deprecated": True,
                "readOnly": False,
                "writeOnly": False,
            }
        },
        "required": ["name"],
        "additionalProperties": False,
    },
    "property_called_like_keyword": _object(
        {"type": {"const": "t"}, "format": _SHORT, "not": _INTEGER, "$ref": _INTEGER},
        "type",
        "not",
    ),
}

_TREE: Schema = {
    "$defs": {
        "node": _object(
            {
                "value": _INTEGER,
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "value",
        )
    },
    "$ref": "#/$defs/node",
}

_REFERENCES: dict[str, Schema] = {
    "ref": {
        **_object({"a": {"$ref": "#/$defs/short"}}, "a"),
        "$defs": {"short": _SHORT},
    },
    "ref_definitions": {
        **_object({"a": {"$ref": "#/definitions/s"}, "b": {"$ref": "#/definitions/s"}}, "b"),
        "definitions": {"s": {"enum": ["x", "y"]}},
    },
    "ref_siblings": {
        **_object({"a": {"$ref": "#/$defs/n", "maximum": 9}}, "a"),
        "$defs": {"n": {"type": "integer", "minimum": 0}},
    },
    "ref_recursive": _TREE,
    "ref_root": _object({"v": _INTEGER, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "v"),
    "ref_mutual": {
        "$defs": {
            "a": _object({"b": {"$ref": "#/$defs/b"}}),
            "b": _object({"a": {"$ref": "#/$defs/a"}}),
        },
        "$ref": "#/$defs/a",
    },
    "ref_property": _object({"a": _SHORT, "b": {"$ref": "#/properties/a"}}, "b"),
    "ref_escaped": {
        **_object({"a": {"$ref": "#/$defs/x~1y%20z"}}, "a"),
        "$defs": {"x/y z": {"type": "boolean"}},
    },
    "ref_chain": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "integer", "maximum": 0}},
    },
    "ref_described": {
        **_object({"a": {"$ref": "#/$defs/s", "description": "as pydantic writes it"}}, "a"),
        "$defs": {"s": {"type": "string", "enum": ["p", "q"], "title": "S"}},
    },
}

_PROGRAMS: dict[str, Schema] = {
    "weather_tool": _object(
        {
            "location": {"type": "string", "description": "City and country"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "location",
    ),
    "pydantic_optional": _object(
        {
            "name": {"title": "Name", "type": "string"},
            "nick": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "scores": {"items": {"type": "number"}, "title": "Scores", "type": "array"},
        },
        "name",
        title="Model",
    ),
    "invoice": _object(
        {
            "number": {"type": "string", "pattern": "^INV-[0-9]{4}$"},
            "issued": {"type": "string", "format": "date"},
            "lines": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": _object(
                    {
                        "sku": {"type": "string", "minLength": 1, "maxLength": 8},
                        "count": {"type": "integer", "minimum": 1, "maximum": 99},
                        "price": {"type": "number", "minimum": 0},
                    },
                    "sku",
                    "count",
                ),
            },
            "paid": {"type": "boolean"},
        },
        "number",
        "lines",
    ),
    "expression": {
        "$defs": {
            "e": {
                "anyOf": [
                    {"type": "integer"},
                    _object(
                        {
                            "op": {"enum": ["+", "-", "*"]},
                            "l": {"$ref": "#/$defs/e"},
                            "r": {"$ref": "#/$defs/e"},
                        },
                        "op",
                        "l",
                        "r",
                    ),
                ]
            }
        },
        "$ref": "#/$defs/e",
    },
    "openai_strict": _object(
        {
            "steps": {
                "type": "array",
                "items": _object(
                    {"explanation": _STRING, "output": _STRING}, "explanation", "output"
                ),
            },
            "final_answer": _STRING,
        },
        "steps",
        "final_answer",
    ),
}

SCHEMAS: dict[str, Schema] = {
    **_NUMBERS,
    **_STRINGS,
    **_CHOICES,
    **_ARRAYS,
    **_OBJECTS,
    **_REFERENCES,
    **_PROGRAMS,
}

REFUSED: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
    "unique_items": ({"type": "array", "items": _INTEGER, "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, "contains"),
    "min_contains": ({"type": "array", "minContains": 1}, "minContains"),
    "unevaluated": ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    "unevaluated_items": ({"type": "array", "unevaluatedItems": False}, "unevaluatedItems"),
    "dependent": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependent_schemas": ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "dependencies": ({"dependencies": {"a": ["b"]}}, "dependencies"),
    "property_names": ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    "min_properties": (
        {"type": "object", "additionalProperties": _INTEGER, "minProperties": 3},
        "minProperties",
    ),
    "format": ({"type": "string", "format": "idn-email"}, "format"),
    "format_unknown": ({"type": "string", "format": "unknown"}, "format"),
    "one_of_overlap": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    "one_of_objects": (
        {"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
        "oneOf",
    ),
    "dynamic_ref": ({"$dynamicRef": "#node"}, "$dynamicRef"),
    "remote_ref": ({"$ref": "https://example.com/schema.json"}, "$ref"),
    "missing_ref": ({"$ref": "#/$defs/nowhere"}, "$ref"),
    "unknown_keyword": ({"type": "string", "minLenght": 3}, "minLenght"),
    "pattern_lookahead": ({"type": "string", "pattern": "^(?=a)b"}, "pattern"),
    "pattern_backreference": ({"type": "string", "pattern": r"^(a)\1$"}, "pattern"),
    "pattern_broken": ({"type": "string", "pattern": "(("}, "pattern"),
    "type_unknown": ({"type": "float"}, "type"),
    "type_empty": ({"type": []}, "type"),
    "required_no_list": ({"type": "object", "required": "a"}, "required"),
    "properties_no_object": ({"type": "object", "properties": []}, "properties"),
    "minimum_text": ({"type": "integer", "minimum": "1"}, "minimum"),
    "length_negative": ({"type": "string", "minLength": -1}, "minLength"),
    "nested_keyword": (
        {"type": "array", "items": {"type": "object", "properties": {"a": {"not": {}}}}},
        "not",
    ),
    "x_guidance": ({"type": "string", "x-guidance": {"lenient": True}}, "x-guidance"),
}
