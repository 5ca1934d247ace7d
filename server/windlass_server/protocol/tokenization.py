"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shape."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from windlass_server.protocol.chat import Message
from windlass_server.protocol.fields import FIRST_FAULT, Body, Integer
from windlass_server.protocol.tools import ChatTool

MAX_TOKENS = 1 << 20
"""Token ids of one request."""


class TokenizeRequest(Body):
    """A prompt, or messages that are rendered to one."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], FIRST_FAULT, Field(min_length=1)] | None = None
    tools: Annotated[list[ChatTool], FIRST_FAULT] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeResponse(msgspec.Struct):
    """The tokens; `max_model_len` is the context of the model."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType | None = UNSET


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: Annotated[list[Integer], FIRST_FAULT, Field(max_length=MAX_TOKENS)]


class DetokenizeResponse(msgspec.Struct):
    """The text."""

    prompt: str


class TokenizerInfo(msgspec.Struct):
    """What an evaluation needs to know to tokenise elsewhere."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    eos_token_id: int | None = None
    chat_template: str | UnsetType = UNSET
