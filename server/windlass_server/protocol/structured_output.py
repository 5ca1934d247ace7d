"""The ways in which clients say what an output must be, and the one that the engine knows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from windlass.errors import RequestError
from windlass.request import StructuredOutputs
from windlass_server.body import UNION_TAG
from windlass_server.errors import invalid_request, missing
from windlass_server.protocol.fields import FIRST_FAULT, TEXT, Body, one_of

_OBJECT = UNION_TAG + "object"
_KINDS: dict[type, str] = {str: TEXT, dict: _OBJECT}
_Texts = Annotated[list[str], FIRST_FAULT]
_Schema = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[dict[str, Any], Tag(_OBJECT)],
    one_of(lambda value: _KINDS.get(type(value)), "a string or an object"),
]


class JsonSchemaFormat(Body):
    """`json_schema` of a response format. Its schema is always kept to, whatever `strict` says."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputFields(Body):
    """vLLM's `structured_outputs`: exactly one of these."""

    json_: Annotated[_Schema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: _Texts | None = None
    grammar: str | None = None


class ConstraintFields(Body):
    """Every field of a request that constrains the output; at most one may be set.

    The `guided_*` names are vLLM's older ones.
    """

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputFields | None = None
    guided_json: _Schema | None = None
    guided_regex: str | None = None
    guided_choice: _Texts | None = None
    guided_grammar: str | None = None

    @property
    def constraint_param(self) -> str | None:
        """The field that constrains the output, None for none; errors about it are named so.

        Raises:
            ApiError: 400, several are set.
        """
        given = [name for name in ConstraintFields.model_fields if self._constrains(name)]
        if len(given) > 1:
            message = f"'{given[1]}' cannot be combined with '{given[0]}'."
            raise invalid_request(message, given[1], "invalid_value")
        return given[0] if given else None

    def _constrains(self, name: str) -> bool:
        value = getattr(self, name)
        if isinstance(value, ResponseFormat):
            return value.type != "text"
        return value is not None and value not in ("", [])


def structured_outputs(body: ConstraintFields) -> StructuredOutputs | None:
    """Return what the output must be, None for free text.

    Raises:
        ApiError: 400 naming the field that is wrong.
    """
    param = body.constraint_param
    if param is None:
        return None
    if param == "response_format" and body.response_format is not None:
        return _response_format(body.response_format)
    try:
        if param == "structured_outputs" and body.structured_outputs is not None:
            return _from_fields(body.structured_outputs)
        value, kind = getattr(body, param), param.removeprefix("guided_")
        fields: dict[str, Any] = {kind: tuple(value) if kind == "choice" else value}
        return StructuredOutputs(**fields)
    except RequestError as exc:
        raise invalid_request(exc.message, param, exc.code) from None


def _from_fields(fields: StructuredOutputFields) -> StructuredOutputs:
    return StructuredOutputs(
        json=fields.json_,
        json_object=bool(fields.json_object),
        regex=fields.regex,
        choice=None if fields.choice is None else tuple(fields.choice),
        grammar=fields.grammar,
    )


def _response_format(response_format: ResponseFormat) -> StructuredOutputs:
    if response_format.type == "json_object":
        return StructuredOutputs(json_object=True)
    described = response_format.json_schema
    if described is None or described.schema_ is None:
        param = "response_format.json_schema" + ("" if described is None else ".schema")
        raise missing(param)
    return StructuredOutputs(json=described.schema_)


def read_format(given: dict[str, Any] | None, param: str) -> StructuredOutputs | None:
    """Return what a format in one object asks for: `text.format` of a response, say.

    It is OpenAI's or Anthropic's: a `type`, and for a JSON schema the `schema` beside it.

    Raises:
        ApiError: 400 naming the part of `param` that is wrong.
    """
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return StructuredOutputs(json_object=True)
        case {"type": "json_schema", "schema": dict(schema)}:
            return StructuredOutputs(json=schema)
        case {"type": "json_schema"}:
            message = f"'{param}.schema' must be a JSON schema."
            raise invalid_request(message, f"{param}.schema", "invalid_value")
        case _:
            message = f"'{param}.type' must be one of text, json_object, json_schema."
            raise invalid_request(message, f"{param}.type", "invalid_value")


def name_constraint(error: RequestError, body: ConstraintFields) -> RequestError:
    """Return the engine's refusal of a constraint under the name that the client used."""
    if error.param == "structured_outputs":
        error.param = body.constraint_param or error.param
    return error
