"""Embeddings, rerank and score as lines of a batch: what the route answers, and its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from msgspec.structs import replace

from windlass_server.access.caller import ANYONE
from windlass_server.app import create_app
from windlass_server.batches.call import run_line
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from tests.server.pooling.conftest import Pooling

pytestmark = pytest.mark.anyio

RERANK = {"query": "rope?", "documents": ["rope", "the rope hauls"]}
SCORE = {"text_1": "rope?", "text_2": ["rope", "the rope hauls"]}
VARYING = {"id", "created"}


@pytest.mark.parametrize(
    ("task", "url", "fields"),
    [
        ("embed", "/v1/embeddings", {"input": ["a rope", "an anchor"]}),
        ("score", "/v1/rerank", RERANK),
        ("score", "/v2/rerank", RERANK),
        ("score", "/rerank", RERANK),
        ("score", "/v1/score", SCORE),
        ("score", "/score", SCORE),
    ],
)
async def test_a_line_is_answered_as_the_route_answers(
    make_state: Callable[..., ServerState],
    pooling: Pooling,
    task: Any,
    url: str,
    fields: dict[str, Any],
) -> None:
    info = pooling.engine.info.pooling
    assert info is not None
    pooling.become(replace(info, task=task))
    app = create_app(make_state(priority_scheduling=True))
    body = {"model": "fake-model", **fields}
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    result, tokens = await run_line(app, json.dumps(line).encode(), 10_000, ANYONE)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        online = (await client.post(url, json=body)).json()
    written = json.loads(result.encode())
    assert (written["custom_id"], written["response"]["status_code"]) == ("a", 200)
    offline = written["response"]["body"]
    assert {k: v for k, v in offline.items() if k not in VARYING} == {
        k: v for k, v in online.items() if k not in VARYING
    }
    assert tokens.input_tokens == online["usage"]["total_tokens"] > 0
    assert tokens.output_tokens == 0
    assert pooling.priorities == [1_000_000, 0]
