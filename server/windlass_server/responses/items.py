"""Items of a response: with ids, as templates see them, and as they are listed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter

from windlass_server.chat.answer import new_id
from windlass_server.chat.template import template_tool_call
from windlass_server.errors import invalid_request, missing, unsupported
from windlass_server.protocol.responses import (
    FunctionCallItem,
    FunctionCallOutputItem,
    Item,
    ItemReference,
    MessageItem,
    Part,
    ReasoningItem,
)

_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[Item])
_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
}
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_SEALED = "windlass.1."
"""Starts what `seal` writes."""

FindItem = Callable[[str], dict[str, Any] | None]


def seal(reasoning: str) -> str:
    """Return reasoning in a form that clients hand back unread; it is not secret here."""
    return _SEALED + base64.urlsafe_b64encode(reasoning.encode()).decode()


def unseal(sealed: str, param: str) -> str:
    """Return what `seal` was given.

    Raises:
        ApiError: 400, it comes from elsewhere.
    """
    try:
        if not sealed.startswith(_SEALED):
            raise ValueError
        return base64.urlsafe_b64decode(sealed.removeprefix(_SEALED)).decode()
    except (ValueError, binascii.Error):
        text = f"'{param}' was not written by this server."
        raise invalid_request(text, param, "invalid_encrypted_content") from None


def input_items(given: str | Sequence[Item] | None, find: FindItem) -> list[dict[str, Any]]:
    """Return the input as items with ids, references replaced by what they name.

    Raises:
        ApiError: 400, an item is of another kind, holds more than text, or is not known.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [MessageItem(role="user", content=given)]
    return [_listed(item, f"input[{index}]", find) for index, item in enumerate(given)]


def _listed(item: Item, param: str, find: FindItem) -> dict[str, Any]:
    match item:
        case ItemReference():
            known = find(item.id)
            if known is None:
                text = f"'{param}' refers to an item that is not stored here."
                raise invalid_request(text, f"{param}.id", "item_not_found")
            return known
        case MessageItem():
            return _listed_message(item, param)
        case FunctionCallItem() | FunctionCallOutputItem() | ReasoningItem():
            listed = item.model_dump(include=set(type(item).model_fields), exclude_none=True)
            if isinstance(item, FunctionCallOutputItem):
                listed["output"] = part_text(item.output, f"{param}.output")
            if isinstance(item, ReasoningItem):
                reasoning_text(item, param)
                listed.setdefault("summary", [])
        case _:
            kind = item.type[:40]
            known_kinds = ", ".join(_PREFIXES)
            text = f"'{param}' is of type {kind}: only {known_kinds} and item_reference are known."
            raise unsupported(f"{param}.type", text)
    return _with_id(listed)


def _listed_message(item: MessageItem, param: str) -> dict[str, Any]:
    parts = item.content
    if isinstance(parts, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        parts = [Part(type=kind, text=parts)]
    listed: dict[str, Any] = {"type": "message", "role": item.role, "content": []}
    for index, part in enumerate(parts):
        text = _one_text(part, f"{param}.content[{index}]")
        if item.role == "assistant":
            output = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            listed["content"].append(output)
        else:
            listed["content"].append({"type": "input_text", "text": text})
    if item.id is not None:
        listed["id"] = item.id
    listed["status"] = item.status or "completed"
    return _with_id(listed)


def _with_id(listed: dict[str, Any]) -> dict[str, Any]:
    own = listed.get("id") or new_id(_PREFIXES[listed["type"]])
    return {"id": own, "status": "completed", **listed}


def part_text(content: str | Sequence[Part], param: str) -> str:
    """Return the text of parts, joined by line feeds.

    Raises:
        ApiError: 400, a part is no text.
    """
    if isinstance(content, str):
        return content
    texts = [_one_text(part, f"{param}[{index}]") for index, part in enumerate(content)]
    return "\n".join(texts)


def _one_text(part: Part, param: str) -> str:
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type not in _TEXT_PARTS:
        shown = part.type[:40]
        raise unsupported(param, f"'{param}' is of type {shown}: only text is supported.")
    if part.text is None:
        raise missing(f"{param}.text")
    return part.text


def reasoning_text(item: ReasoningItem, param: str) -> str:
    """Return what the model thought: given, sealed, or else its summary."""
    if item.content:
        return part_text(item.content, f"{param}.content")
    if item.encrypted_content is not None:
        return unseal(item.encrypted_content, f"{param}.encrypted_content")
    return part_text(item.summary or [], f"{param}.summary")


def template_messages(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return listed items as templates see them: what an assistant did in a row is one message."""
    messages: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for item in _ITEMS.validate_python(list(items)):
        match item:
            case ReasoningItem():
                message = _assistant(messages, "content", "tool_calls", "reasoning")
                message["reasoning"] = message["reasoning_content"] = reasoning_text(item, "input")
            case FunctionCallItem():
                names[item.call_id] = item.name
                message = _assistant(messages)
                call = template_tool_call(item.call_id, item.name, item.arguments)
                message.setdefault("tool_calls", []).append(call)
            case FunctionCallOutputItem():
                output: dict[str, Any] = {"role": "tool", "tool_call_id": item.call_id}
                if item.call_id in names:
                    output["name"] = names[item.call_id]
                messages.append({**output, "content": part_text(item.output, "input")})
            case MessageItem(role="assistant"):
                message = _assistant(messages, "content", "tool_calls")
                message["content"] = part_text(item.content, "input")
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                messages.append({"role": role, "content": part_text(item.content, "input")})
    for message in messages:
        message.setdefault("content", "")
    return messages


def _assistant(messages: list[dict[str, Any]], *taken: str) -> dict[str, Any]:
    """Return the assistant's message to go on with: a new one if the last has one of `taken`."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or any(key in last for key in taken):
        messages.append({"role": "assistant"})
    return messages[-1]
