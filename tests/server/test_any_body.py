"""No body whatever makes the server fail: it is answered, or refused in OpenAI's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.text import Tokenizer
from windlass_server.app import create_app
from windlass_server.models.settings import ModelSettings
from windlass_server.protocol.chat import ChatCompletionRequest
from windlass_server.protocol.completions import CompletionRequest
from windlass_server.protocol.messages import MessagesRequest
from windlass_server.protocol.parameters import (
    CHAT_UNSUPPORTED,
    COMPLETION_UNSUPPORTED,
    MESSAGES_UNSUPPORTED,
    RESPONSES_UNSUPPORTED,
)
from windlass_server.protocol.responses import ResponsesRequest
from windlass_server.protocol.tokenization import TokenizeRequest
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

CHAT: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "Hello"}]}
TEXT: dict[str, Any] = {"model": "fake-model", "prompt": "Hello"}
RESPONSE: dict[str, Any] = {"model": "fake-model", "input": "Hello"}
MESSAGE: dict[str, Any] = {**CHAT, "max_tokens": 50}
ROUTES = {
    "/v1/chat/completions": (CHAT, [*ChatCompletionRequest.model_fields, *CHAT_UNSUPPORTED]),
    "/v1/completions": (TEXT, [*CompletionRequest.model_fields, *COMPLETION_UNSUPPORTED]),
    "/v1/responses": (RESPONSE, [*ResponsesRequest.model_fields, *RESPONSES_UNSUPPORTED]),
    "/v1/messages": (MESSAGE, [*MessagesRequest.model_fields, *MESSAGES_UNSUPPORTED]),
    "/tokenize": (CHAT, [*TokenizeRequest.model_fields]),
}
ERROR_KEYS = {"message", "type", "param", "code"}
ANSWERS = {"/v1/responses": "output", "/v1/messages": "content", "/tokenize": "tokens"}
ENDS = {
    "/v1/chat/completions": "[DONE]",
    "/v1/completions": "[DONE]",
    "/v1/responses": "response",
    "/v1/messages": "message_stop",
}
KEYS = st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "arguments"])
NUMBERS = st.sampled_from([0, 1, -1, 2, 20, 128, 2**31, 2**53, 2**63 - 1, 2**64, 10**30, -0.0, 0.5])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "tool", "text", "fake-model"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def make_engine(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> Callable[[], FakeEngine]:
    conftest = request.config.pluginmanager.get_plugin(str(request.path.with_name("conftest.py")))
    assert conftest is not None
    engine_class = conftest.FakeEngine

    def make() -> FakeEngine:
        engine: FakeEngine = engine_class(tokenizer)
        engine.answer = "Short."
        return engine

    return make


@pytest.mark.parametrize("route", sorted(ROUTES))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_in_any_field_is_answered_or_refused(
    make_engine: Callable[[], FakeEngine], route: str, data: st.DataObject
) -> None:
    good, every_field = ROUTES[route]
    # A time that is too short is answered 504, and tested elsewhere.
    fields = [field for field in every_field if field != "timeout"]
    change = data.draw(st.dictionaries(st.sampled_from(fields), JSON, min_size=1, max_size=3))
    stream = data.draw(st.booleans())
    response = asyncio.run(_post(make_engine, route, {**good, "stream": stream, **change}))
    if response.status_code != 200:
        assert response.status_code in (400, 404)
        keys = {"message", "type"} if route == "/v1/messages" else ERROR_KEYS
        assert set(response.json()["error"]) == keys
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert ENDS[route] in response.text.split("\n\n")[-2]
        assert "internal_error" not in response.text
    else:
        assert response.json()[ANSWERS.get(route, "choices")] is not None


async def _post(
    make_engine: Callable[[], FakeEngine], route: str, body: dict[str, Any]
) -> httpx.Response:

    state = ServerState(ServerSettings(models=(ModelSettings(names=("fake-model",)),)))
    state.serve(make_engine())
    transport = httpx.ASGITransport(create_app(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post(route, json=body)
