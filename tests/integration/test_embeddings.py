"""Real `windlass serve` processes that embed and rerank, the real `openai` client before them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import PreTrainedModel

from windlass.testing.tiny_pooling_models import (
    TEXTS,
    write_sentence_transformer,
    write_tiny_pooling_model,
)
from windlass.text import Tokenizer

QUERY = "what lifts an anchor?"


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[str]:
    """The address of a server for the model in `folder`."""
    command = [sys.executable, "-m", "windlass.cli", "serve", str(folder), "--port", "0"]
    named = ["--served-model-name", "tiny", "--backend", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *named, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            found = (re.search(r" at (http://[0-9.:]+)$", line.rstrip()) for line in lines)
            address = next((match[1] for match in found if match), None)
            assert address is not None, (folder / "server.log").read_text()
            yield address
            process.terminate()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(scope="module")
def embedder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, PreTrainedModel, Path]]:
    """(address, the model in float32, its folder) of a BERT with mean pooling."""
    folder = tmp_path_factory.mktemp("embedder")
    model = write_tiny_pooling_model("bert", folder, matryoshka_dimensions=[12, 24])
    write_sentence_transformer(folder, prompts={"query": "ask: "})
    with serving(folder, "--max-pooling-inputs", "40") as address:
        yield address, model, folder


@pytest.fixture(scope="module")
def client(embedder: tuple[str, PreTrainedModel, Path]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedder[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


def reference(model: PreTrainedModel, folder: Path, text: str) -> list[float]:
    ids = Tokenizer.load(str(folder)).encode(text)
    with torch.inference_mode():
        mean = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
    vector: list[float] = (mean / mean.norm()).tolist()
    return vector


def test_openais_client_gets_what_transformers_computes(
    client: openai.OpenAI, embedder: tuple[str, PreTrainedModel, Path]
) -> None:
    _, model, folder = embedder
    # The client asks for base64 by itself, and decodes it.
    answer = client.embeddings.create(model="tiny", input=list(TEXTS))
    plain = client.embeddings.create(model="tiny", input=list(TEXTS), encoding_format="float")
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    for entry, same, text in zip(answer.data, plain.data, TEXTS, strict=True):
        assert entry.embedding == pytest.approx(reference(model, folder, text), abs=1e-5)
        assert same.embedding == pytest.approx(entry.embedding, abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert answer.model == "tiny"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_dimensions_prompts_and_token_ids(
    client: openai.OpenAI, embedder: tuple[str, PreTrainedModel, Path]
) -> None:
    _, model, folder = embedder
    whole = torch.tensor(reference(model, folder, TEXTS[0]))
    short = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=12).data[0]
    expected = torch.nn.functional.normalize(whole[:12], dim=0).tolist()
    assert short.embedding == pytest.approx(expected, abs=1e-5)
    ids = Tokenizer.load(str(folder)).encode(TEXTS[0])
    by_ids = client.embeddings.create(model="tiny", input=[ids]).data[0]
    assert by_ids.embedding == pytest.approx(whole.tolist(), abs=1e-5)
    asked = client.embeddings.create(
        model="tiny", input="rope", extra_body={"prompt_name": "query"}
    ).data[0]
    expected = reference(model, folder, "ask: rope")
    assert asked.embedding == pytest.approx(expected, abs=1e-5)


def test_openais_client_raises_the_errors_of_its_classes(client: openai.OpenAI) -> None:
    wrong: list[dict[str, Any]] = [
        {"input": ""},
        {"input": ["rope"] * 41},
        {"input": "rope", "dimensions": 13},
        {"input": "the anchor " * 200},
    ]
    for fields in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="tiny", **fields)
        assert caught.value.param in ("input", "dimensions")
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="rope")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "unsupported_endpoint"


def test_documents_are_ranked_by_embeddings(
    embedder: tuple[str, PreTrainedModel, Path],
) -> None:
    address, model, folder = embedder
    body = {"model": "tiny", "query": QUERY, "documents": list(TEXTS)}
    results = httpx.post(f"{address}/v1/rerank", json=body, timeout=30).json()["results"]
    query = torch.tensor(reference(model, folder, f"ask: {QUERY}"))
    for result in results:
        document = torch.tensor(reference(model, folder, TEXTS[result["index"]]))
        assert result["relevance_score"] == pytest.approx(float(query @ document), abs=1e-5)
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)


def test_a_cross_encoder_reranks_and_scores(tmp_path: Path) -> None:
    auto_class = "AutoModelForSequenceClassification"
    model = write_tiny_pooling_model("xlm_roberta", tmp_path, auto_class, num_labels=1)
    tokenizer = Tokenizer.load(str(tmp_path))
    expected = []
    for encoding in tokenizer.encode_batch([(QUERY, text) for text in TEXTS]):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([encoding.ids])).logits
        expected.append(logits.sigmoid().item())
    with serving(tmp_path) as address, httpx.Client(base_url=address, timeout=30) as http:
        scored = http.post("/v1/score", json={"model": "tiny", "text_1": QUERY, "text_2": TEXTS})
        found = [entry["score"] for entry in scored.json()["data"]]
        assert found == pytest.approx(expected, abs=1e-5)
        body = {"model": "tiny", "query": QUERY, "documents": list(TEXTS), "top_n": 2}
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            results = http.post(path, json=body).json()["results"]
            best = sorted(range(len(TEXTS)), key=lambda index: -expected[index])[:2]
            assert [result["index"] for result in results] == best
        refused = http.post("/v1/embeddings", json={"model": "tiny", "input": "rope"})
        assert refused.json()["error"]["code"] == "unsupported_endpoint"
        metrics = http.get("/metrics").text
        assert re.search(r'vllm:request_success_total\{.*"stop".*\} 4\.0', metrics)
