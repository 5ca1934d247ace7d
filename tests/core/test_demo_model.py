"""The embedded demo model loads, answers, stops by itself and is small."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from windlass import demo_model

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo_model"
FOLDER = demo_model.path()
TALK = [
    {"role": "system", "content": "Be polite."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
    {"role": "user", "content": "Who are you?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture
def _example_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    # The example's modules have plain names, which other tests must not see.
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("corpus", "world"):
            del sys.modules[name]


def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, limit: int
) -> tuple[str, bool]:
    import torch

    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            temperature=None,
            top_p=None,
        )
    made = output[0, ids.shape[1] :].tolist()
    return tokenizer.decode(made, skip_special_tokens=True), made[-1] == tokenizer.eos_token_id


def test_size_is_small() -> None:
    sizes = [file.stat().st_size for file in FOLDER.iterdir() if file.is_file()]
    assert sum(sizes) < 10_000_000
    assert max(sizes) < 9_000_000


def test_configuration_agrees_with_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 1024
    assert config["tie_word_embeddings"] is True
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["eos_token_id"] == generation["eos_token_id"] == tokenizer.eos_token_id
    assert config["bos_token_id"] == generation["bos_token_id"] == tokenizer.bos_token_id
    assert config["vocab_size"] == len(tokenizer)
    assert tokenizer.unk_token is None


def test_chat_template_renders_all_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    expected = (
        "<|im_start|>system\nBe polite.<|im_end|>\n"
        "<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nHello! How can I help you?<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n"
    )
    render = tokenizer.apply_chat_template
    assert render(TALK, tokenize=False) == expected
    prompt = render(TALK, tokenize=False, add_generation_prompt=True)
    assert prompt == expected + "<|im_start|>assistant\n"


def test_chat_template_takes_content_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert text == "<|im_start|>user\nHello!<|im_end|>\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " leading and trailing  spaces \n\n\ttab",
        "naïve façade — “quoted” …",
        "日本語と한국어 и кириллица עברית",
        "👩‍👩‍👧 🧵⚓️ \U0001f6a2",
        "\x00\x7f\u200b\ufeff\u0301",
        "if x != y: don't . stop , 1 + 1 = 2",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_single(tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is Windlass?", "engine"),
        ("what is a windlass", "rope"),
        ("Who are you?", "demo model"),
        ("What is PagedAttention?", "blocks"),
        ("How do I start the server?", "windlass serve"),
        ("Count from 3 to 7.", "3, 4, 5, 6, 7."),
        ("Which day comes after Monday?", "Tuesday"),
        ("What is the capital of France?", "small model"),
        ("Tell me a story about a fox.", "fox"),
    ],
)
def test_answers_and_stops(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str, words: str
) -> None:
    talk = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    text, stopped = generate(model, tokenizer, prompt, 320)
    assert stopped, text
    assert words in text


def test_plain_text_continues_as_a_story(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    text, stopped = generate(model, tokenizer, "Once upon a time", 320)
    assert stopped, text
    assert len(text.split()) > 50


@pytest.mark.usefixtures("_example_on_path")
def test_corpus_depends_only_on_the_seed() -> None:
    documents = importlib.import_module("corpus").documents
    first, again, other = (list(islice(documents(seed), 200)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
