"""Scores of pairs: cross-encoders, language models asked for yes or no, cosines of embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from windlass import LLM
from windlass.config import PoolingConfig
from windlass.errors import ContextLengthError, ModelError, RequestError
from windlass.testing.tiny_pooling_models import TEXTS, write_sentence_transformer

MakeModel = Callable[..., tuple[Path, PreTrainedModel]]

CLASSIFIER = "AutoModelForSequenceClassification"
QUERY = "what lifts an anchor?"
DOCUMENTS = [*TEXTS, "a", "the anchor " * 12]


def load(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), backend="cpu", dtype="float32", **options)


def scores(llm: LLM, first: Any, second: Any, **options: Any) -> list[float]:
    return [output.outputs.score for output in llm.score(first, second, use_tqdm=False, **options)]


def pair_length(llm: LLM, document: str) -> int:
    return len(llm.get_tokenizer().encode_batch([(QUERY, document)])[0])


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("family", ["bert", "xlm_roberta", "modernbert", "qwen3", "llama"])
def test_a_cross_encoder_says_what_transformers_says_of_each_pair_alone(
    make_model: MakeModel, family: str
) -> None:
    folder, model = make_model(family, CLASSIFIER, num_labels=1)
    with load(folder) as llm:
        assert llm.info.pooling is not None
        assert (llm.info.pooling.task, llm.info.pooling.dimensions) == ("score", 1)
        found = scores(llm, QUERY, DOCUMENTS)
        encoded = llm.get_tokenizer().encode_batch([(QUERY, text) for text in DOCUMENTS])
    reference = []
    for encoding in encoded:
        arguments = {"input_ids": torch.tensor([encoding.ids])}
        if family == "bert":
            assert set(encoding.type_ids) == {0, 1}
            arguments["token_type_ids"] = torch.tensor([encoding.type_ids])
        with torch.inference_mode():
            reference.append(model(**arguments).logits.sigmoid().item())
    assert found == pytest.approx(reference, abs=2e-5)
    assert len({round(score, 4) for score in found}) > 3


def test_the_activation_is_the_one_that_the_checkpoint_notes(make_model: MakeModel) -> None:
    folder, _ = make_model("bert", CLASSIFIER, num_labels=1)
    with load(folder) as llm:
        logistic = torch.tensor(scores(llm, QUERY, DOCUMENTS))
    identity = "torch.nn.modules.linear.Identity"
    old, new = "sbert_ce_default_activation_function", "sentence_transformers"
    for noted in ({old: identity}, {old: None, new: {"activation_fn": identity}}):
        change_config(folder, **noted)
        with load(folder) as llm:
            plain = torch.tensor(scores(llm, QUERY, DOCUMENTS))
        torch.testing.assert_close(plain.sigmoid(), logistic)
    change_config(folder, sentence_transformers={"activation_fn": "os.system"})
    with pytest.raises(ModelError, match="'system' is not one of"):
        load(folder)


def test_a_classifier_of_several_labels_has_no_score(make_model: MakeModel) -> None:
    folder, _ = make_model("bert", CLASSIFIER, num_labels=3)
    with pytest.raises(ModelError, match="3 labels"):
        load(folder)
    with load(folder, pooling=PoolingConfig(task="embed")) as llm:
        assert len(llm.embed("rope", use_tqdm=False)[0].outputs.embedding) == 48


def test_a_model_without_a_classifier_cannot_be_made_one(make_model: MakeModel) -> None:
    folder, _ = make_model("bert")
    with pytest.raises(ModelError):
        load(folder, pooling=PoolingConfig(task="score"))


@pytest.mark.parametrize("asked_by", ["flag", "checkpoint"])
def test_a_language_model_is_asked_yes_or_no(make_model: MakeModel, asked_by: str) -> None:
    folder, model = make_model("qwen3", "AutoModelForCausalLM", max_position_embeddings=512)
    if asked_by == "checkpoint":
        change_config(folder, classifier_from_token=["no", "yes"])
        options: dict[str, Any] = {}
    else:
        options = {"pooling": PoolingConfig(runner="pooling", task="score")}
    instruction = "Find the rope"
    with load(folder, **options) as llm:
        assert llm.info.pooling is not None
        assert llm.info.pooling.asks_yes_or_no
        found = scores(llm, QUERY, DOCUMENTS, instruction=instruction)
        assert found != scores(llm, QUERY, DOCUMENTS)
        encode = llm.get_tokenizer().encode
    # As the model card of Qwen3-Reranker does it.
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    answers = [encode("no", False)[0], encode("yes", False)[0]]
    for score, document in zip(found, DOCUMENTS, strict=True):
        body = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
        ids = encode(prefix, False) + encode(body, False) + encode(suffix, False)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1, answers]
        assert score == pytest.approx(logits.softmax(0)[1].item(), abs=2e-5)


def test_embeddings_are_compared_by_their_cosine(make_model: MakeModel) -> None:
    folder, _ = make_model("bert")
    write_sentence_transformer(
        folder, normalize=False, prompts={"query": "ask: ", "passage": "p: "}
    )
    with load(folder) as llm:
        found = scores(llm, QUERY, DOCUMENTS)
        asked = llm.embed(QUERY, use_tqdm=False, prompt_name="query", normalize=True)
        told = llm.embed(DOCUMENTS, use_tqdm=False, prompt_name="passage", normalize=True)
        steps = llm.get_metrics().prompt_tokens
        # One text in many pairs is embedded once.
        scores(llm, [QUERY] * 9, [DOCUMENTS[0]] * 9)
        tokens = len(asked[0].prompt_token_ids) + len(told[0].prompt_token_ids)
        assert llm.get_metrics().prompt_tokens - steps == tokens
    first = torch.tensor(asked[0].outputs.embedding)
    reference = [float(first @ torch.tensor(t.outputs.embedding)) for t in told]
    assert found == pytest.approx(reference, abs=1e-6)


def test_pairs_one_to_many_and_one_to_one(make_model: MakeModel) -> None:
    folder, _ = make_model("bert", CLASSIFIER, num_labels=1)
    with load(folder) as llm:
        many = scores(llm, QUERY, DOCUMENTS)
        assert scores(llm, [QUERY] * len(DOCUMENTS), DOCUMENTS) == pytest.approx(many, abs=1e-5)
        assert scores(llm, QUERY, DOCUMENTS[0]) == pytest.approx(many[:1], abs=1e-5)
        with pytest.raises(RequestError, match="text_1 has 2 texts and text_2 has 3") as caught:
            llm.score(["a", "b"], ["a", "b", "c"])
        assert caught.value.param == "text_2"
        with pytest.raises(RequestError, match="does not embed"):
            llm.embed("rope")
        with pytest.raises(RequestError, match="no instruction"):
            llm.score("a", "b", instruction="c")
        with pytest.raises(RequestError, match="empty text"):
            llm.score("a", "")


def test_a_long_document_is_refused_or_cut_and_the_query_never(make_model: MakeModel) -> None:
    folder, _ = make_model("bert", CLASSIFIER, num_labels=1)
    long = "the anchor comes up " * 40
    with load(folder, max_model_len=32) as llm:
        tokenizer = llm.get_tokenizer()
        with pytest.raises(ContextLengthError, match="maximum input length is 32 tokens"):
            llm.score(QUERY, long)

        words = long.split(" ")
        texts = [" ".join(words[:count]) for count in range(1, 40)]
        fits = max((t for t in texts if pair_length(llm, t) <= 32), key=len)
        assert pair_length(llm, fits) == 32
        fitting = scores(llm, QUERY, long, truncate_prompt_tokens=-1)
        assert fitting == pytest.approx(scores(llm, QUERY, fits), abs=1e-5)

        short = scores(llm, QUERY, long, max_document_tokens=3)
        keep = tokenizer.encode_batch([long], False)[0].offsets[2][1]
        assert short == pytest.approx(scores(llm, QUERY, long[:keep]), abs=1e-5)

        with pytest.raises(ContextLengthError, match="leaves no room"):
            llm.score(long, "a", truncate_prompt_tokens=-1)
        for name in ("truncate_prompt_tokens", "max_document_tokens"):
            with pytest.raises(RequestError) as caught:
                llm.score("a", "b", **{name: 0})  # type: ignore[arg-type]
            assert caught.value.param == name
