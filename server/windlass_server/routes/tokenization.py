"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from windlass.request import SamplingParams
from windlass.text import Tokenizer
from windlass_server.body import parse_body
from windlass_server.chat.call import ChatCall, ToolChoice
from windlass_server.chat_completions.messages import check_messages, template_messages
from windlass_server.errors import invalid_request, unsupported
from windlass_server.protocol.tokenization import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from windlass_server.protocol.tools import chat_tools
from windlass_server.routes.request import admit, engine_for, json_response, server_state, warnings

if TYPE_CHECKING:
    from windlass_server.engine import Engine
    from windlass_server.state import ServerState

router = APIRouter()

_SPECIAL = ("eos_token", "bos_token", "pad_token", "unk_token")


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """Return the tokens of a prompt or of messages."""
    state = server_state(request)
    admission = admit(request)
    body = await parse_body(request, TokenizeRequest)
    if (body.prompt is None) == (body.messages is None):
        text = "Send either 'prompt' or 'messages'."
        raise invalid_request(text, "prompt", "missing_required_parameter")
    headers = {**admission.headers, **warnings(body, {}, state)}
    engine = await engine_for(request, body.model, admission)
    tokens = await _tokens(body, state, engine)
    tokenizer = engine.tokenizer
    answer = TokenizeResponse(len(tokens), engine.info.max_model_len, tokens)
    if body.return_token_strs:
        answer.token_strs = [tokenizer.token_text(token) for token in tokens]
    return json_response(answer, headers)


async def _tokens(body: TokenizeRequest, state: ServerState, engine: Engine) -> list[int]:
    if body.prompt is not None:
        special = body.add_special_tokens is not False
        return await asyncio.to_thread(engine.tokenizer.encode, body.prompt, special)
    prompt = await state.prompt(_call(body, state), engine)
    return prompt["prompt_token_ids"]


def _call(body: TokenizeRequest, state: ServerState) -> ChatCall:
    settings = state.settings
    if body.chat_template is not None and not settings.trust_request_chat_template:
        text = "'chat_template' needs --trust-request-chat-template on the server."
        raise unsupported("chat_template", text)
    messages = body.messages or []
    check_messages(messages, settings.max_messages)
    continuing = bool(body.continue_final_message)
    adding = body.add_generation_prompt
    return ChatCall(
        messages=template_messages(messages),
        sampling=SamplingParams(),
        tools=chat_tools(body.tools, settings) if body.tools is not None else [],
        tool_choice=ToolChoice("auto"),
        template_kwargs=dict(body.chat_template_kwargs or {}),
        chat_template=body.chat_template,
        add_generation_prompt=not continuing if adding is None else adding,
        continue_final_message=continuing,
    )


@router.post("/detokenize")
async def detokenize(request: Request) -> Response:
    """Return the text of tokens, special tokens included."""
    state = server_state(request)
    admission = admit(request)
    body = await parse_body(request, DetokenizeRequest)
    headers = {**admission.headers, **warnings(body, {}, state)}
    engine = await engine_for(request, body.model, admission)
    size = engine.info.vocab_size
    if any(not 0 <= token < size for token in body.tokens):
        text = f"'tokens' must be ids from 0 to {size - 1}."
        raise invalid_request(text, "tokens", "invalid_value")
    text = await asyncio.to_thread(_text, engine.tokenizer, body.tokens)
    return json_response(DetokenizeResponse(text), headers)


def _text(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=False)


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> Response:
    """Describe the tokenizer: its special tokens, its size and the chat template."""
    engine = await engine_for(request, request.query_params.get("model"))
    served = server_state(request).models.of(engine)
    inner = engine.tokenizer.hf_tokenizer
    template = served.settings.chat_template or inner.chat_template
    known = inner.special_tokens_map
    return json_response(
        TokenizerInfo(
            tokenizer_class=type(inner).__name__,
            vocab_size=engine.tokenizer.vocab_size,
            model_max_length=engine.info.max_model_len,
            eos_token_id=engine.tokenizer.eos_token_id,
            chat_template=template if isinstance(template, str) else UNSET,
            **{name: str(known[name]) for name in _SPECIAL if name in known},
        )
    )
