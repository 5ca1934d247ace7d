"""`POST /v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.chat.turn import ChatTurn
from windlass_server.chat_completions.call import chat_call
from windlass_server.chat_completions.shape import ChatCompletionShape
from windlass_server.protocol.chat import ChatCompletionRequest
from windlass_server.protocol.parameters import CHAT_UNSUPPORTED
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.streaming import EventStream

router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    body, engine, admission = await accept(request, ChatCompletionRequest, CHAT_UNSUPPORTED)
    state, headers = server_state(request), admission.headers
    call = chat_call(body, engine, state.settings)
    turn = await ChatTurn.start(state, engine, call, admission)
    shape = ChatCompletionShape(body, engine.tokenizer, turn, named=call.tool_choice.named)
    if body.stream:
        return EventStream(state, shape.events(), headers)
    return await whole_answer(request, shape.whole(), headers)
