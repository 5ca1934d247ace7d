"""`/v1/responses`: create, retrieve, cancel, delete, list the input, count tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from windlass.request import SamplingParams
from windlass_server.access.caller import caller, runs_as
from windlass_server.chat.turn import ChatTurn
from windlass_server.errors import ApiError, invalid_request, unsupported
from windlass_server.protocol.paging import is_ascending, limit_of
from windlass_server.protocol.parameters import RESPONSES_UNSUPPORTED
from windlass_server.protocol.response_objects import (
    DeletedResponse,
    InputTokens,
    ItemList,
    Response,
)
from windlass_server.protocol.responses import InputTokensRequest, ResponsesRequest
from windlass_server.responses.background import BackgroundResponse
from windlass_server.responses.call import (
    LOGPROBS,
    SEALED_REASONING,
    begun_response,
    prompt_call,
    response_call,
)
from windlass_server.responses.items import input_items
from windlass_server.responses.shape import ResponseShape
from windlass_server.responses.store import StoredResponse
from windlass_server.responses.truncation import truncated
from windlass_server.routes.request import accept, json_response, server_state, whole_answer
from windlass_server.state import ServerState
from windlass_server.streaming import EventStream

router = APIRouter()

_PAGE = 20
_MAX_PAGE = 100


@router.post("/v1/responses")
async def create_response(request: Request) -> HttpResponse:
    """Answer, and keep the answer for later requests."""
    body, engine, admission = await accept(request, ResponsesRequest, RESPONSES_UNSUPPORTED)
    headers = admission.headers
    state, owner = server_state(request), caller(request).owner
    stored = _stored(request, body, state)
    inputs, history = _conversation(body, state, owner)
    call = response_call(body, [*history, *inputs], engine, state.settings)
    if body.truncation == "auto":
        call = await truncated(call, state, engine)
    with state.background.room() if body.background else nullcontext():
        turn = await ChatTurn.start(state, engine, call, admission)
    include = body.include or ()
    shape = ResponseShape(
        begun_response(body, call.sampling, stored=stored),
        turn,
        engine.tokenizer,
        top_logprobs=call.sampling.logprobs if LOGPROBS in include or body.top_logprobs else None,
        sealed=SEALED_REASONING in include,
    )
    if body.background:
        running = BackgroundResponse(owner, shape, inputs, state.models.of(engine))
        return _launch(running, state, body, headers)
    events = _kept(shape, inputs, state, owner) if stored else shape.events()
    if body.stream:
        return EventStream(state, events, headers, error_event=shape.failed_event, end=b"")
    return await whole_answer(request, _whole(events, shape), headers)


def _stored(request: Request, body: ResponsesRequest, state: ServerState) -> bool:
    """Whether the response is kept: what is not said is yes, as long as the server keeps any."""
    in_batch = runs_as(request.scope) is not None
    keeps = state.settings.max_stored_responses > 0 and not in_batch
    if (body.store or body.background) and not keeps:
        field = "store" if body.store else "background"
        who = "a batch" if in_batch else "this server"
        raise unsupported(field, f"'{field}': {who} keeps no responses.")
    if body.background and body.store is False:
        text = "'background' needs 'store'."
        raise invalid_request(text, "background", "invalid_value")
    return keeps and body.store is not False


def _conversation(
    body: ResponsesRequest | InputTokensRequest, state: ServerState, owner: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the new items, and those of the responses before."""
    history = state.responses.conversation(owner, body.previous_response_id)
    if history is None:
        text = "The previous response, or one before it, is not stored here (any more)."
        raise invalid_request(text, "previous_response_id", "previous_response_not_found")
    return input_items(body.input, lambda item: state.responses.item(owner, item)), history


async def _kept(
    shape: ResponseShape, inputs: list[dict[str, Any]], state: ServerState, owner: str
) -> AsyncGenerator[bytes, None]:
    async with aclosing(shape.events()) as events:
        async for data in events:
            if shape.response.status != "in_progress":
                state.responses.add(StoredResponse.of(owner, shape.response, inputs))
            yield data


async def _whole(events: AsyncGenerator[bytes, None], shape: ResponseShape) -> Response:
    async with aclosing(events):
        async for _ in events:
            pass
    return shape.response


def _launch(
    running: BackgroundResponse,
    state: ServerState,
    body: ResponsesRequest,
    headers: dict[str, str],
) -> HttpResponse:
    running.shape.response.status = "queued"
    answer = running.body()
    state.background.launch(running, state)
    if body.stream:
        return EventStream(state, running.follow(0), headers, end=b"")
    return _json(answer, headers)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request) -> HttpResponse:
    """Count the tokens of a prompt."""
    body, engine, admission = await accept(request, InputTokensRequest, RESPONSES_UNSUPPORTED)
    state, owner = server_state(request), caller(request).owner
    inputs, history = _conversation(body, state, owner)
    call = prompt_call(body, [*history, *inputs], SamplingParams(), state.settings)
    if body.truncation == "auto":
        call = await truncated(call, state, engine)
    prompt = await state.prompt(call, engine)
    return json_response(InputTokens(len(prompt["prompt_token_ids"])), admission.headers)


@router.get("/v1/responses/{response_id}")
async def retrieve_response(request: Request, response_id: str) -> HttpResponse:
    """Return a stored response, or its events when it ran in the background."""
    state, owner = server_state(request), caller(request).owner
    running = state.background.get(owner, response_id)
    if request.query_params.get("stream", "").lower() in ("true", "1"):
        return _replay(request, state, owner, response_id)
    if running is not None:
        return _json(running.body())
    return _json(_record(state, owner, response_id).response)


def _replay(request: Request, state: ServerState, owner: str, response_id: str) -> HttpResponse:
    given = request.query_params.get("starting_after", "-1")
    if not (given.removeprefix("-").isdecimal() and len(given) <= 12):
        text = "'starting_after' must be an integer."
        raise invalid_request(text, "starting_after", "invalid_type")
    start = max(0, int(given) + 1)
    running = state.background.get(owner, response_id)
    if running is not None:
        return EventStream(state, running.follow(start), end=b"")
    record = _record(state, owner, response_id)
    if not record.events:
        text = "Only responses that ran in the background can be streamed again."
        raise invalid_request(text, "stream", "invalid_value")

    async def replay() -> AsyncGenerator[bytes, None]:
        yield b"".join(record.events[start:])

    return EventStream(state, replay(), end=b"")


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> HttpResponse:
    """End a response that runs in the background."""
    state, owner = server_state(request), caller(request).owner
    running = state.background.get(owner, response_id)
    if running is not None:
        await running.cancel()
        return _json(running.body())
    record = _record(state, owner, response_id)
    if not record.events:
        text = "Only responses that run in the background can be cancelled."
        raise invalid_request(text, "response_id", "invalid_value")
    return _json(record.response)


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> HttpResponse:
    """Forget a response."""
    state, owner = server_state(request), caller(request).owner
    running = state.background.get(owner, response_id)
    if running is not None:
        await running.cancel()
    if not state.responses.delete(owner, response_id):
        raise _not_found()
    return json_response(DeletedResponse(response_id))


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> HttpResponse:
    """List what went into a response, page by page."""
    state, owner = server_state(request), caller(request).owner
    running = state.background.get(owner, response_id)
    record = running or _record(state, owner, response_id)
    query = request.query_params
    ordered = list(record.input_items)
    if not is_ascending(query):
        ordered.reverse()
    return json_response(_page(ordered, limit_of(query, _PAGE, _MAX_PAGE), query.get("after")))


def _page(ordered: Sequence[dict[str, Any]], limit: int, after: str | None) -> ItemList:
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise invalid_request("'after' names no item.", "after", "invalid_value")
        start = ids.index(after) + 1
    page = list(ordered[start : start + limit])
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    return ItemList(page, first, last, start + limit < len(ordered))


def _record(state: ServerState, owner: str, response_id: str) -> StoredResponse:
    record = state.responses.get(owner, response_id)
    if record is None:
        raise _not_found()
    return record


def _not_found() -> ApiError:
    text = "There is no such response; it may have expired."
    return ApiError(404, text, param="response_id", code="response_not_found")


def _json(data: bytes, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(data, headers=headers, media_type="application/json")
