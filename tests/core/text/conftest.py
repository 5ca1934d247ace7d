"""Tokenizers of each kind that decoder models use, trained here on a few lines."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as TokenizersBackend
from transformers import PreTrainedTokenizerFast

from windlass.config import ModelInfo
from windlass.text import Tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, the end.",
    "Hello world! Hello there, how are you today?",
    "naïve café über Größe",
    "\u4f60\u597d\u4e16\u754c \u4f60\u597d",
    "numbers 1 2 3 10 20 30 and   spaces\nlines\n\n",
]
SPECIALS = ["<|bos|>", "<|eos|>", "<|user|>"]
CHATML = (
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant:{% endif %}"
)


def wrap(backend: TokenizersBackend, chat_template: str | None = None) -> Tokenizer:
    hf_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eos|>"
    )
    hf_tokenizer.chat_template = chat_template
    return Tokenizer(hf_tokenizer)


def train_byte_level() -> TokenizersBackend:
    backend = TokenizersBackend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return backend


def train_byte_fallback(strip_start: bool = True) -> TokenizersBackend:
    """Llama 2's kind: Metaspace by normaliser, bytes for characters it does not know."""
    space = "\u2581"
    trained = TokenizersBackend(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=space)
    ascii_lines = [line for line in CORPUS if line.isascii()]
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>", *SPECIALS], show_progress=False
    )
    trained.train_from_iterator(ascii_lines, trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = dict(model["vocab"])
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges = [tuple(merge) for merge in model["merges"]]
    backend = TokenizersBackend(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    steps = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip_start:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(SPECIALS)
    return backend


def train_metaspace() -> TokenizersBackend:
    backend = TokenizersBackend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", *SPECIALS], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return wrap(train_byte_level(), CHATML)


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    return wrap(train_byte_fallback())


@pytest.fixture(scope="session")
def tokenizers(byte_level: Tokenizer, byte_fallback: Tokenizer) -> dict[str, Tokenizer]:
    return {
        "byte_level": byte_level,
        "byte_fallback": byte_fallback,
        "byte_fallback_unstripped": wrap(train_byte_fallback(strip_start=False)),
        "metaspace": wrap(train_metaspace()),
    }


@pytest.fixture(
    scope="session", params=["byte_level", "byte_fallback", "byte_fallback_unstripped", "metaspace"]
)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers[request.param]


@pytest.fixture(scope="session")
def info(byte_level: Tokenizer) -> ModelInfo:
    """A model with a context of 32 tokens and a vocabulary padded to 512."""
    return ModelInfo(
        model="test",
        architecture="LlamaForCausalLM",
        backend="cpu",
        device="cpu",
        dtype="float32",
        vocab_size=512,
        max_model_len=32,
        block_size=16,
        num_blocks=8,
        max_num_seqs=4,
        num_parameters=1,
        weight_bytes=4,
        kv_cache_bytes=4,
        load_seconds=0.0,
        eos_token_ids=(7,),
    )
