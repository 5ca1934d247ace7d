"""The messages of a chat completion: checked, and as templates see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windlass_server.chat.template import template_tool_call
from windlass_server.errors import invalid_request, missing, unsupported
from windlass_server.protocol.chat import CalledFunction, ContentPart, Message

MEDIA_PARTS = frozenset(
    {"image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file"}
)


def check_messages(messages: Sequence[Message], limit: int) -> None:
    """Raise a 400 for too many messages, or one that is not complete or not text."""
    if len(messages) > limit:
        text = f"'messages' must have at most {limit} entries."
        raise invalid_request(text, "messages", "invalid_value")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")


def _check_message(message: Message, param: str) -> None:
    if message.role == "tool" and message.tool_call_id is None:
        raise missing(f"{param}.tool_call_id")
    calls = message.tool_calls or message.function_call
    speaks = calls or message.refusal or message.reasoning or message.reasoning_content
    if message.content is None and not (message.role == "assistant" and speaks):
        raise missing(f"{param}.content")
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            _check_part(part, f"{param}.content[{index}]")


def _check_part(part: ContentPart, param: str) -> None:
    if part.type in MEDIA_PARTS:
        raise unsupported(param, f"'{param}' is of type {part.type}: only text is supported.")
    if part.type not in ("text", "refusal"):
        text = f"'{param}.type' must be 'text'."
        raise invalid_request(text, f"{param}.type", "invalid_value")
    if getattr(part, part.type) is None:
        raise missing(f"{param}.{part.type}")


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages as templates see them."""
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    """Return what a template sees; most know no role "developer", which means "system"."""
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"
    if isinstance(message.content, list):
        plain["content"] = "\n".join(part.text or part.refusal or "" for part in message.content)
    elif message.content is None and message.refusal is not None:
        plain["content"] = message.refusal
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        plain["reasoning"] = plain["reasoning_content"] = reasoning
    if message.tool_calls:
        plain["tool_calls"] = [
            template_tool_call(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls
        ]
    elif message.function_call is not None:
        call: CalledFunction = message.function_call
        plain["tool_calls"] = [template_tool_call(None, call.name, call.arguments)]
    return plain
