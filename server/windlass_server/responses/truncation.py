"""`truncation: auto`: a conversation too long for the model loses its oldest turns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from windlass.errors import ContextLengthError

if TYPE_CHECKING:
    from windlass_server.chat.call import ChatCall
    from windlass_server.engine import Engine
    from windlass_server.state import ServerState


async def truncated(call: ChatCall, state: ServerState, engine: Engine) -> ChatCall:
    """Return `call` with as many of its last turns as leave room for an answer.

    A turn begins with a message of the user; system messages at the beginning stay, and so does
    the last turn, even if it does not fit. Finding the border takes a rendering per halving.

    Raises:
        RequestError: the template refuses the messages.
    """
    messages = call.messages
    first = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    starts = [i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user"]
    if not starts or await _fits(call, state, engine):
        return call
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if await _fits(_from(call, first, starts[middle]), state, engine):
            high = middle
        else:
            low = middle + 1
    return _from(call, first, starts[low])


def _from(call: ChatCall, first: int, start: int) -> ChatCall:
    return replace(call, messages=call.messages[:first] + call.messages[start:])


async def _fits(call: ChatCall, state: ServerState, engine: Engine) -> bool:
    """Whether the prompt leaves room for the answer, which may ask for half the context at most."""
    limit = engine.info.max_model_len
    room = min(call.sampling.max_tokens or 1, limit // 2)
    try:
        prompt = await state.prompt(call, engine)
    except ContextLengthError:
        return False
    return len(prompt["prompt_token_ids"]) + room <= limit
