"""Grammars that keep a model to its tools and to a response format, in the syntax of its format.

Written in the Lark dialect of llguidance, https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from windlass.errors import RequestError
from windlass.request import StructuredOutputs
from windlass.structured_output.ecma_regex import PatternError, literal, whole_pattern
from windlass_server.formats.harmony import CHANNEL, END, MESSAGE, START, Harmony
from windlass_server.formats.syntax import Arguments, Choice, Optional, Part, Text

if TYPE_CHECKING:
    from windlass_server.chat.call import ChatCall
    from windlass_server.formats.chat_format import ModelFormat

_ANYTHING = "/(?s:.*)/"
_SPACE = "SPACE: /[ \\n\\r\\t]{0,4}/"


class Grammar:
    """Writes the grammar of one answer; rules are collected while parts are written."""

    def __init__(self, chat_format: ModelFormat, in_reasoning: bool) -> None:
        self._format = chat_format
        self._in_reasoning = in_reasoning
        self._rules: list[str] = []
        self._budget: int | None = None

    def constraint(self, call: ChatCall) -> StructuredOutputs | None:
        """Return what binds the answer to `call`; None when nothing does.

        Raises:
            RequestError: the format of the text cannot stand behind reasoning.
        """
        tools, bound = call.callable_tools, call.sampling.structured_outputs
        syntax, reasoning = self._format.syntax, self._format.reasoning
        if self._format.has_reasoning_budget:
            self._budget = call.thinking_budget
        if syntax is None or not tools:
            if bound is None and self._budget is not None:
                return self._finished(self._with_thought(self._terminal(self._free_text())))
            if bound is None or not (reasoning or isinstance(syntax, Harmony)):
                return bound
            return self._finished(self._with_thought(self._content(bound)))
        if isinstance(syntax, Harmony):
            answer = self._harmony_answer(call, bound)
        elif call.tool_choice.mode == "required":
            answer = self._calls(tools, call.parallel_tool_calls)
        elif bound is not None:
            calls = self._calls(tools, call.parallel_tool_calls)
            answer = f"({calls} | {self._content(bound)})"
        else:
            answer = self._text_and_calls(tools, call.parallel_tool_calls)
        return self._finished(answer if isinstance(syntax, Harmony) else self._with_thought(answer))

    def _finished(self, answer: str) -> StructuredOutputs:
        return StructuredOutputs(grammar="\n".join([f"start: {answer}", *self._rules, ""]))

    # -- reasoning ------------------------------------------------------------------------

    def _with_thought(self, answer: str) -> str:
        tags = self._format.reasoning
        if isinstance(self._format.syntax, Harmony):
            return f"{self._analysis()} {self._message('final')} {answer}"
        if tags is None:
            return answer
        if _SPACE not in self._rules:
            self._rules.append(_SPACE)
        thought = self._thought(tags.close)
        if self._in_reasoning:
            return f"{thought} SPACE {answer}"
        return f"({self._literal(tags.open)} {thought} SPACE)? {answer}"

    def _thought(self, end: str) -> str:
        """Reasoning and then `end`, which a budget of tokens forces: it has to be one token."""
        if self._budget is None:
            return self._text_until(end)
        closing = f"<[{self._format.ids[end]}]>"
        if not self._budget:
            return closing
        name = self._new_name()
        self._rules.append(f"{name}[max_tokens={self._budget}]: {_without(end)}")
        return f"{name} {closing}"

    def _free_text(self) -> str:
        """Any text; where reasoning is counted, none that begins it."""
        tags = self._format.reasoning
        return _ANYTHING if self._budget is None or tags is None else _without(tags.open)

    def _analysis(self) -> str:
        """Messages of reasoning before the answer: as many as the model wants, or a bounded one."""
        body = self._thought(END)
        following = self._literal(f"{START}assistant")
        many = "*" if self._budget is None else "?"
        return f"({self._message('analysis')} {body} {following}){many}"

    def _message(self, channel: str) -> str:
        return self._literal(f"{CHANNEL}{channel}{MESSAGE}")

    def _harmony_answer(self, call: ChatCall, bound: StructuredOutputs | None) -> str:
        calls = " | ".join(self._call(tool) for tool in call.callable_tools)
        if call.tool_choice.mode == "required":
            return f"{self._analysis()} ({calls})"
        content = self._content(bound) if bound else self._terminal(_ANYTHING)
        return f"{self._analysis()} ({calls} | {self._message('final')} {content})"

    # -- calls ----------------------------------------------------------------------------

    def _calls(self, tools: Sequence[dict[str, Any]], parallel: bool, opened: str = "") -> str:
        """One call or several with what stands around them; `opened` was written already."""
        syntax = self._format.syntax
        assert syntax is not None
        one = self._rule(" | ".join(self._call(tool) for tool in tools))
        if not syntax.before and opened:
            one = self._rule(" | ".join(self._call(tool, opened) for tool in tools))
        before = syntax.before.removeprefix(opened) if syntax.before else ""
        parts = [self._literal(before), one]
        if parallel and (syntax.before or not opened):
            parts.append(f"({self._literal(syntax.between)} {one})*")
        return " ".join(filter(None, [*parts, self._literal(syntax.after)]))

    def _text_and_calls(self, tools: Sequence[dict[str, Any]], parallel: bool) -> str:
        """Free text, bound to a tool's schema from where a call begins."""
        syntax = self._format.syntax
        assert syntax is not None
        if syntax.at_start:
            first = "{" if not syntax.before else syntax.before[0]
            other = self._terminal(f"/([^{re.escape(first)}\\s](?s:.*))?/ & {self._free_text()}")
            return f"({self._calls(tools, parallel)} | {other})"
        opened = syntax.markers[0]
        calls = self._calls(tools, parallel, opened)
        several = "*" if parallel and not syntax.before else "?"
        tail = self._free_text()
        if opened not in self._format.special_tokens:
            tail += f" & {_without(opened)}"
        before = self._text_until(opened, self._free_text())
        return f"({before} {calls}){several} {self._terminal(tail)}"

    def _call(self, tool: dict[str, Any], opened: str = "") -> str:
        syntax = self._format.syntax
        assert syntax is not None
        function = tool["function"]
        parts = syntax.call(function["name"], closed(function["parameters"]))
        if opened:
            assert isinstance(parts[0], str)
            parts = [parts[0].removeprefix(opened), *parts[1:]]
        return self._sequence(parts)

    # -- parts ----------------------------------------------------------------------------

    def _sequence(self, parts: Iterable[Part]) -> str:
        return " ".join(filter(None, (self._part(part) for part in parts)))

    def _part(self, part: Part) -> str:
        match part:
            case str():
                return self._literal(part)
            case Arguments(schema):
                return self._rule(f"%json {json.dumps(schema)}")
            case Text(end, least, most, before):
                many = f"{{{least},{'' if most is None else most}}}"
                text = f"/(?s:.{many}){literal(before)}/ & {_without(end)}"
                return self._text_until(end, text)
            case Choice(texts):
                return "(" + " | ".join(_quoted(text) for text in texts) + ")"
            case Optional(inner):
                return f"({self._sequence(inner)})?"

    def _content(self, bound: StructuredOutputs) -> str:
        if bound.json is not None:
            return self._rule(f"%json {json.dumps(_decoded(bound.json))}")
        if bound.json_object:
            return self._rule('%json {"type": "object"}')
        if bound.choice is not None:
            return "(" + " | ".join(_quoted(choice) for choice in bound.choice) + ")"
        if bound.regex is not None:
            try:
                return self._terminal(f"/{whole_pattern(bound.regex)}/")
            except PatternError as error:
                text = f"The regular expression cannot be used: {error}."
                raise RequestError(text, param="structured_outputs", code="invalid_regex") from None
        raise RequestError(
            "A grammar cannot be combined with reasoning or with tools that the model may choose: "
            "turn reasoning off (reasoning_effort 'none'), or send no tools.",
            param="structured_outputs",
            code="unsupported_parameter",
        )

    def _text_until(self, end: str, text: str = _ANYTHING) -> str:
        """Text and then `end`, the first one that comes."""
        if end in self._format.special_tokens:
            return f"{self._terminal(text)} {self._literal(end)}"
        name = self._new_name()
        self._rules.append(f"{name}[suffix={_quoted(end)}]: {text}")
        return name

    def _literal(self, text: str) -> str:
        """`text` as it stands, special tokens in it by their ids."""
        special = self._format.special_tokens
        if not special:
            return _quoted(text) if text else ""
        pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text)
        return " ".join(
            f"<[{special[piece]}]>" if piece in special else _quoted(piece)
            for piece in pieces
            if piece
        )

    def _rule(self, body: str) -> str:
        name = self._new_name()
        self._rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = self._new_name().upper()
        self._rules.append(f"{name}: {body}")
        return name

    def _new_name(self) -> str:
        return f"r{len(self._rules)}"


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, of the named properties unless it says else."""
    changes: dict[str, Any] = {"type": "object"} if "type" not in schema else {}
    composed = ("additionalProperties", "patternProperties", "unevaluatedProperties", "$ref")
    combined = ("allOf", "anyOf", "oneOf")
    if not any(key in schema for key in (*composed, *combined)):
        changes["additionalProperties"] = False
    return {**schema, **changes} if changes else schema


def _decoded(schema: dict[str, Any] | str) -> object:
    """The schema of a text: written anew, so that nothing can stand behind it in the grammar."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise RequestError(
            "The JSON schema is no valid JSON.",
            param="structured_outputs",
            code="invalid_json_schema",
        ) from None


def _without(text: str) -> str:
    """Any text that does not hold `text`."""
    return f"{_ANYTHING} & ~/(?s:.*){literal(text)}(?s:.*)/"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
