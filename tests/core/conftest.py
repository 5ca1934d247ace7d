"""What tests of the front ends share: a tiny tokenizer's folder, runners for engine processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as TokenizersBackend
from tokenizers import decoders, models, pre_tokenizers, trainers

ENGINE_TESTS = Path(__file__).parent / "engine"
# Runners for engine processes are imported by name, here and there.
sys.path.insert(0, str(ENGINE_TESTS))


@pytest.fixture
def engine_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engine processes import `engine_runners`."""
    paths = [str(ENGINE_TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a byte-level tokenizer of 300 tokens, one of which is "<|end|>"."""
    backend = TokenizersBackend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a windlass hauls the same rope whatever drives it"], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"eos_token": "<|end|>", "chat_template": '
        "\"{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}\"}"
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    return str(folder)
