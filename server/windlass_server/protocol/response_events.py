"""`/v1/responses`: the events of a stream. `type` is the event's name too."""

from __future__ import annotations

import msgspec

from windlass_server.protocol.chat import TokenLogprob
from windlass_server.protocol.response_objects import (
    OutputItem,
    OutputText,
    ReasoningPart,
    Response,
)


class ResponseEvent(msgspec.Struct):
    """The whole response has a new state."""

    type: str
    sequence_number: int
    response: Response


class ItemEvent(msgspec.Struct):
    """An item begins or is complete."""

    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(msgspec.Struct):
    """A part of an item begins or is complete."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    part: OutputText | ReasoningPart
    content_index: int = 0


class TextDelta(msgspec.Struct):
    """New text of a message."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    logprobs: list[TokenLogprob] = []
    content_index: int = 0
    type: str = "response.output_text.delta"


class TextDone(msgspec.Struct):
    """The text of a message is complete."""

    sequence_number: int
    item_id: str
    output_index: int
    text: str
    logprobs: list[TokenLogprob] = []
    content_index: int = 0
    type: str = "response.output_text.done"


class ReasoningDelta(msgspec.Struct):
    """New text of a reasoning."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    content_index: int = 0
    type: str = "response.reasoning_text.delta"


class ReasoningDone(msgspec.Struct):
    """The text of a reasoning is complete."""

    sequence_number: int
    item_id: str
    output_index: int
    text: str
    content_index: int = 0
    type: str = "response.reasoning_text.done"


class ArgumentsDelta(msgspec.Struct):
    """New text of a call's arguments."""

    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    type: str = "response.function_call_arguments.delta"


class ArgumentsDone(msgspec.Struct):
    """The arguments of a call are complete."""

    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str
    type: str = "response.function_call_arguments.done"


Event = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
)
