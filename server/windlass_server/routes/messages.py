"""Anthropic's `POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass.request import SamplingParams
from windlass_server.anthropic_messages.call import message_call, prompt_call
from windlass_server.anthropic_messages.errors import anthropic_error
from windlass_server.anthropic_messages.shape import PING, MessageShape
from windlass_server.chat.turn import ChatTurn
from windlass_server.errors import ApiError
from windlass_server.protocol.messages import CountTokensRequest, MessagesRequest, TokenCount
from windlass_server.protocol.parameters import MESSAGES_UNSUPPORTED
from windlass_server.routes.request import accept, json_response, server_state, whole_answer
from windlass_server.streaming import EventStream

router = APIRouter()


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    body, engine, admission = await accept(request, MessagesRequest, MESSAGES_UNSUPPORTED)
    state, headers = server_state(request), admission.headers
    call = message_call(body, engine, state.settings)
    turn = await ChatTurn.start(state, engine, call, admission)
    shape = MessageShape(body.model, turn, body.thinking)
    if not body.stream:
        return await whole_answer(request, shape.whole(), headers)
    request_id = request.state.request_id

    def error_event(error: ApiError) -> bytes:
        return b"event: error\ndata: " + anthropic_error(error, request_id) + b"\n\n"

    return EventStream(
        state, shape.events(), headers, error_event=error_event, keep_alive=PING, end=b""
    )


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a prompt."""
    body, engine, admission = await accept(request, CountTokensRequest, MESSAGES_UNSUPPORTED)
    state = server_state(request)
    call = prompt_call(body, SamplingParams(), state.settings)
    prompt = await state.prompt(call, engine)
    return json_response(TokenCount(len(prompt["prompt_token_ids"])), admission.headers)
