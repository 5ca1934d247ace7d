"""Rerank in Jina's and Cohere's shape, and score in vLLM's, on an engine without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from msgspec.structs import replace

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient
    from tests.server.pooling.conftest import Pooling

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pooling")]

MODEL = "fake-model"
QUERY = "rope?"
DOCUMENTS = ["rope", "the rope that hauls the anchor", "the rope hauls"]


@pytest.fixture
async def scorer(pooling: Pooling) -> Pooling:
    """A cross-encoder whose score grows with the length of a pair."""
    info = replace(pooling.engine.info.pooling, task="score", dimensions=1)
    pooling.become(info)
    return pooling


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> Any:
    response = await client.post(path, json={"model": MODEL, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def refuse(client: httpx.AsyncClient, path: str, **fields: Any) -> Any:
    response = await client.post(path, json={"model": MODEL, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def pair_score(engine: FakeEngine, first: str, second: str) -> float:
    return len(engine.tokenizer.encode_batch([(first, second)])[0]) / 256


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
async def test_documents_come_best_first_in_jinas_shape(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    body = await post(client, path, query=QUERY, documents=[DOCUMENTS[0], {"text": DOCUMENTS[1]}])
    scores = [pair_score(engine, QUERY, text) for text in DOCUMENTS[:2]]
    tokens = round(sum(scores) * 256)
    identifier = body.pop("id")
    assert identifier.startswith("rerank-")
    assert body == {
        "model": MODEL,
        "results": [
            {"index": 1, "relevance_score": scores[1], "document": {"text": DOCUMENTS[1]}},
            {"index": 0, "relevance_score": scores[0], "document": {"text": DOCUMENTS[0]}},
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens},
        },
    }


@pytest.mark.usefixtures("scorer")
async def test_documents_may_be_texts_and_objects_in_any_order(make_client: MakeClient) -> None:
    client = await make_client(strict_params=True)
    for documents in (["a", {"text": "b"}], [{"text": "b"}, "a"]):
        body = await post(client, "/v2/rerank", query=QUERY, documents=documents)
        assert len(body["results"]) == 2
    fields = {"model": MODEL, "query": QUERY, "documents": ["a", {"text": "b", "title": "c"}]}
    refused = await client.post("/rerank", json=fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "documents[1].title"


@pytest.mark.usefixtures("scorer")
async def test_how_many_come_and_whether_with_their_texts(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS}
    best = await post(client, "/rerank", **fields, top_n=2, return_documents=False)
    assert [set(result) for result in best["results"]] == [{"index", "relevance_score"}] * 2
    assert [result["index"] for result in best["results"]] == [1, 2]
    assert len((await post(client, "/rerank", **fields, top_n=99))["results"]) == 3
    # Of equal documents the first one comes first.
    same = await post(client, "/rerank", query=QUERY, documents=["rope"] * 3)
    assert [result["index"] for result in same["results"]] == [0, 1, 2]


@pytest.mark.usefixtures("scorer")
async def test_cohere_cuts_long_documents_and_gives_no_texts_back(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    long = "the rope hauls the anchor " * 20
    body = await post(client, "/v2/rerank", query=QUERY, documents=[long, "rope"])
    assert body["meta"]["api_version"]["version"] == "2"
    best = body["results"][0]
    assert (set(best), best["index"]) == ({"index", "relevance_score"}, 0)
    assert 28 / 256 <= best["relevance_score"] <= 32 / 256
    error = await refuse(client, "/v1/rerank", query=QUERY, documents=["rope", long])
    assert (error["param"], error["code"]) == ("documents", "context_length_exceeded")
    assert "input 1 has" in error["message"]

    fields: dict[str, Any] = {"query": QUERY, "documents": [long], "max_tokens_per_doc": 3}
    for path in ("/v1/rerank", "/v2/rerank"):
        body = await post(client, path, **fields, return_documents=True)
        offsets = engine.tokenizer.encode_batch([long], False)[0].offsets
        expected = pair_score(engine, QUERY, long[: offsets[2][1]])
        assert body["results"][0]["relevance_score"] == expected
        assert body["results"][0]["document"] == {"text": long}


async def test_a_model_that_embeds_ranks_by_the_cosine(client: httpx.AsyncClient) -> None:
    body = await post(client, "/rerank", query="ask: rope", documents=["rope", "ask: rope"])
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1.0001 for score in scores)
    same = await post(client, "/score", text_1="rope", text_2="rope", truncate_prompt_tokens=-1)
    assert same["data"][0]["score"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_scores_of_one_text_with_many_and_of_pairs(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    body = await post(client, path, text_1=QUERY, text_2=DOCUMENTS)
    scores = [pair_score(engine, QUERY, text) for text in DOCUMENTS]
    assert body["id"].startswith("score-")
    assert isinstance(body["created"], int)
    assert (body["object"], body["model"]) == ("list", MODEL)
    assert body["data"] == [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ]
    tokens = round(sum(scores) * 256)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    pairs = await post(client, path, text_1=[QUERY, "rope"], text_2=DOCUMENTS[:2])
    assert pairs["data"][1]["score"] == pair_score(engine, "rope", DOCUMENTS[1])
    one = await post(client, path, text_1=[QUERY], text_2=DOCUMENTS[0])
    assert [entry["score"] for entry in one["data"]] == scores[:1]


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/rerank", {"query": None}, "query", "invalid_type"),
        ("/rerank", {"query": ""}, "documents", "invalid_value"),
        ("/rerank", {"documents": []}, "documents", "invalid_value"),
        ("/rerank", {"documents": "rope"}, "documents", "invalid_type"),
        ("/rerank", {"documents": ["rope", 5]}, "documents[1]", "invalid_type"),
        ("/rerank", {"documents": [{"title": "rope"}]}, "documents[0].text", None),
        ("/rerank", {"documents": ["rope", ""]}, "documents", "invalid_value"),
        ("/rerank", {"documents": ["rope"] * 9}, "documents", "invalid_value"),
        ("/rerank", {"top_n": 0}, "top_n", "invalid_value"),
        ("/v2/rerank", {"max_tokens_per_doc": 0}, "max_tokens_per_doc", "invalid_value"),
        ("/rerank", {"rank_fields": ["title"]}, "rank_fields", "unsupported_parameter"),
        ("/rerank", {"instruction": "judge"}, "instruction", "unsupported_parameter"),
        ("/score", {"text_1": [], "text_2": []}, "text_2", "invalid_value"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a"]}, "text_2", "invalid_value"),
        ("/score", {"text_1": "a", "text_2": 5}, "text_2", "invalid_type"),
        ("/score", {"text_1": "a"}, "text_2", "missing_required_parameter"),
        ("/score", {"text_1": "a " * 40, "text_2": "a"}, "text_2", "context_length_exceeded"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str, code: str | None
) -> None:
    base = {"query": QUERY, "documents": ["rope"]} if "rerank" in path else {}
    error = await refuse(client, path, **{**base, **fields})
    assert error["param"] == param
    assert error["code"] == (code or "missing_required_parameter")


@pytest.mark.usefixtures("scorer")
async def test_a_model_that_scores_does_not_embed(client: httpx.AsyncClient) -> None:
    error = await refuse(client, "/v1/embeddings", input="rope")
    assert error["code"] == "unsupported_endpoint"


async def test_a_model_that_generates_does_not_score(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.info = replace(engine.info, pooling=None)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        error = await refuse(client, path, query=QUERY, documents=DOCUMENTS)
        assert error["code"] == "unsupported_endpoint"
    for path in ("/score", "/v1/score"):
        error = await refuse(client, path, text_1="a", text_2="b")
        assert error["code"] == "unsupported_endpoint"
