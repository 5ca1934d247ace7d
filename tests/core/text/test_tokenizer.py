from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizersBackend
from tokenizers import decoders, models
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from windlass.errors import ModelError, RequestError
from windlass.text import Tokenizer

quick = settings(max_examples=60, deadline=None)


@quick
@given(ids=st.lists(st.integers(0, 450), max_size=20), skip=st.booleans())
def test_decode_equals_transformers_unless_byte_tokens_are_broken(
    tokenizer: Tokenizer, ids: list[int], skip: bool
) -> None:
    expected = tokenizer.hf_tokenizer.decode(
        ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
    )
    if "ByteFallback" in str(tokenizer.hf_tokenizer.backend_tokenizer.decoder):
        assume("\ufffd" not in expected)
    assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


@quick
@given(text=st.text(max_size=30), special=st.booleans())
def test_encode_equals_transformers(tokenizer: Tokenizer, text: str, special: bool) -> None:
    expected = tokenizer.hf_tokenizer.encode(text, add_special_tokens=special)
    assert tokenizer.encode(text, add_special_tokens=special) == expected


@quick
@given(text=st.text(max_size=30))
def test_byte_tokenizers_give_every_text_back(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text, add_special_tokens=False)
    assert byte_level.decode(ids, skip_special_tokens=False) == text


def test_whole_characters_in_a_broken_byte_run_are_kept(byte_fallback: Tokenizer) -> None:
    euro = [
        byte_fallback.hf_tokenizer.convert_tokens_to_ids(f"<0x{b:02X}>") for b in b"\xe2\x82\xac"
    ]
    assert byte_fallback.decode([*euro, euro[2], euro[0], euro[1]]) == "\u20ac\ufffd\ufffd\ufffd"


@pytest.mark.parametrize("text", ["Hello world", "caf\u00e9 \U0001f600", "\u4f60\u597d"])
def test_token_bytes_join_to_the_text(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text)
    assert b"".join(map(byte_level.token_bytes, ids)) == text.encode()


def test_bytes_and_text_of_single_tokens(byte_fallback: Tokenizer) -> None:
    ids = byte_fallback.encode("you \u4f60", add_special_tokens=False)
    assert byte_fallback.token_text(ids[0]) == " you"
    assert [byte_fallback.token_bytes(token) for token in ids[-3:]] == [b"\xe4", b"\xbd", b"\xa0"]
    assert byte_fallback.token_text(ids[-1]) == "\ufffd"
    assert byte_fallback.token_text(byte_fallback.eos_token_id or -1) == "<|eos|>"
    assert byte_fallback.token_bytes(10**9) == b""
    assert byte_fallback.token_bytes(-1) == b""


def test_facts_of_a_tokenizer(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    assert byte_level.vocab_size == len(byte_level.hf_tokenizer)
    assert byte_level.eos_token_id == byte_level.encode("<|eos|>")[0]
    assert byte_level.special_ids == frozenset(byte_level.encode("<|bos|><|eos|><|user|>"))
    assert byte_level.has_chat_template
    assert not byte_fallback.has_chat_template


def test_unpaired_surrogate_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"unpaired surrogate stands at position 2") as caught:
        byte_level.encode("ab\ud800")
    assert caught.value.param == "prompt"


def test_saved_truncation_does_not_cut_prompts(byte_level: Tokenizer, tmp_path: Path) -> None:
    byte_level.hf_tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    ids = Tokenizer.load(str(tmp_path)).encode("the quick brown fox")
    assert ids == byte_level.encode("the quick brown fox")


@pytest.mark.parametrize("kind", ["plain", "qwen2", "llama"])
def test_loaded_ids_are_those_of_the_class_that_transformers_chooses(
    kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    classes = {"plain": PreTrainedTokenizerFast, "qwen2": Qwen2Tokenizer, "llama": LlamaTokenizer}
    source = tokenizers["byte_fallback" if kind == "llama" else "byte_level"].hf_tokenizer
    if kind == "plain":
        saved = source
    else:
        model = json.loads(source.backend_tokenizer.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        saved = classes[kind](
            vocab=model["vocab"], merges=merges, eos_token="<|eos|>", bos_token="<|bos|>"
        )
    saved.save_pretrained(tmp_path)
    loaded, chosen = Tokenizer.load(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    for text in ["Hello world", "caf\u00e9  <|eos|> \u4f60 x\n\n y", "", " lead", "e\u0301 10 20"]:
        for special in (True, False):
            expected = chosen.encode(text, add_special_tokens=special)
            assert loaded.encode(text, add_special_tokens=special) == expected


def test_vocabulary_without_tokenizer_json_is_read_through_its_class(
    byte_level: Tokenizer, tmp_path: Path
) -> None:
    model = json.loads(byte_level.hf_tokenizer.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [" ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.decode(loaded.encode("Hello w\u00f6rld")) == "Hello w\u00f6rld"


def test_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer in .*needs tokenizer\.json") as caught:
        Tokenizer.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"broken": true')
    with pytest.raises(ModelError, match="cannot be read") as caught:
        Tokenizer.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_is_an_error() -> None:
    with pytest.raises(ModelError, match="/nowhere/model"):
        Tokenizer.load("/nowhere/model")


def test_code_in_the_model_folder_never_runs(byte_level: Tokenizer, tmp_path: Path) -> None:
    byte_level.hf_tokenizer.save_pretrained(tmp_path)
    canary = tmp_path / "canary"
    (tmp_path / "own.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Own:\n    pass\n")
    config_path = tmp_path / "tokenizer_config.json"
    config = json.loads(config_path.read_text())
    config["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"]}
    config["tokenizer_class"] = "Own"
    config_path.write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}'
    )
    assert Tokenizer.load(str(tmp_path)).encode("Hello") == byte_level.encode("Hello")
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    with pytest.raises(ModelError):
        Tokenizer.load(str(tmp_path))
    assert not canary.exists()


def test_decoder_that_needs_later_tokens_is_refused() -> None:
    backend = TokenizersBackend(models.BPE({"a</w>": 0, "b": 1}, [], end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder()
    with pytest.raises(ModelError, match="BPEDecoder depends on later tokens"):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_word_piece_and_missing_decoders_are_concatenative() -> None:
    vocab = {"[UNK]": 0, "he": 1, "##llo": 2, "there": 3, ",": 4}
    for decoder in (decoders.WordPiece(), None):
        backend = TokenizersBackend(models.WordPiece(vocab, unk_token="[UNK]"))
        if decoder is not None:
            backend.decoder = decoder
        tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
        ids = [1, 2, 4, 3, 1, 2]
        assert tokenizer.decode(ids) == backend.decode(ids)
