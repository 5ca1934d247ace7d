"""No body whatever makes embeddings, rerank or score fail: it is answered, or refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.text import Tokenizer
from windlass_server.app import create_app
from windlass_server.models.settings import ModelSettings
from windlass_server.protocol.embeddings import EmbeddingRequest
from windlass_server.protocol.parameters import EMBEDDING_UNSUPPORTED, SCORE_UNSUPPORTED
from windlass_server.protocol.scores import RerankRequest, ScoreRequest
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

ROUTES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/v1/embeddings": (
        {"input": "Hello"},
        [*EmbeddingRequest.model_fields, *EMBEDDING_UNSUPPORTED],
    ),
    "/v2/rerank": (
        {"query": "Hello", "documents": ["a", "b"]},
        [*RerankRequest.model_fields, *SCORE_UNSUPPORTED],
    ),
    "/score": (
        {"text_1": "a", "text_2": ["b", "c"]},
        [*ScoreRequest.model_fields, *SCORE_UNSUPPORTED],
    ),
}
NUMBERS = st.sampled_from([0, 1, -1, 2, 20, 2**31, 2**53, 2**63 - 1, 2**64, 10**30, -0.0, 0.5])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=20)
    | st.sampled_from(["float", "base64", "fake-model", "a " * 40]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("text"), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("route", sorted(ROUTES))
@pytest.mark.parametrize("task", ["embed", "score"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_in_any_field_is_answered_or_refused(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, route: str, task: str, data: st.DataObject
) -> None:
    good, every_field = ROUTES[route]
    # A time that is too short is answered 504, and tested elsewhere.
    fields = [field for field in every_field if field != "timeout"]
    change = data.draw(st.dictionaries(st.sampled_from(fields), JSON, min_size=1, max_size=3))
    body = {"model": "fake-model", **good, **change}
    response = asyncio.run(_post(tokenizer, request, route, task, body))
    if response.status_code != 200:
        assert response.status_code in (400, 404), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert response.json()["usage"]["total_tokens"] > 0


async def _post(
    tokenizer: Tokenizer, request: pytest.FixtureRequest, route: str, task: str, body: Any
) -> httpx.Response:
    def plugin(name: str) -> Any:
        return request.config.pluginmanager.get_plugin(str(request.path.with_name(name)))

    parent = str(request.path.parents[1] / "conftest.py")
    shared: Any = request.config.pluginmanager.get_plugin(parent)
    engine = shared.FakeEngine(tokenizer)
    here = plugin("conftest.py")
    pooling = here.Pooling(engine)
    pooling.become(
        here.PoolingInfo(task=task, method="mean", dimensions=4 if task == "embed" else 1)
    )
    engine.embed, engine.score = pooling.embed, pooling.score
    state = ServerState(ServerSettings(models=(ModelSettings(names=("fake-model",)),)))
    state.serve(engine)
    transport = httpx.ASGITransport(create_app(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post(route, json=body)
