"""Reading safetensors, whole and damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from windlass.errors import ModelError
from windlass.loader.checkpoint import INDEX, SINGLE, Checkpoint

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def sharded(save_model: Callable[..., Path], llama_config: Callable[..., object]) -> Path:
    folder = save_model(llama_config(), max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def read(folder: Path, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    destination = torch.empty(*shape, dtype=dtype)
    with Checkpoint(folder) as checkpoint:
        checkpoint.fill(name, destination)
    return destination


def test_a_tensor_is_copied_out_of_a_single_file(tiny: Path) -> None:
    expected = load_file(tiny / SINGLE)[EMBEDDING]
    assert torch.equal(read(tiny, EMBEDDING, 50, 32), expected)


def test_a_tensor_is_converted_to_the_dtype_of_its_destination(tiny: Path) -> None:
    expected = load_file(tiny / SINGLE)[EMBEDDING].bfloat16()
    assert torch.equal(read(tiny, EMBEDDING, 50, 32, dtype=torch.bfloat16), expected)


def test_every_tensor_is_found_in_its_shard(sharded: Path) -> None:
    with Checkpoint(sharded) as checkpoint:
        for shard in sharded.glob("*.safetensors"):
            for name, expected in load_file(shard).items():
                found = torch.empty_like(expected)
                checkpoint.fill(name, found)
                assert torch.equal(found, expected)
        assert checkpoint.unread == []


def test_what_was_not_read_is_known(tiny: Path) -> None:
    with Checkpoint(tiny) as checkpoint:
        assert EMBEDDING in checkpoint.unread
        checkpoint.fill(EMBEDDING, torch.empty(50, 32))
        assert EMBEDDING not in checkpoint.unread


def test_a_folder_without_weights_says_that_safetensors_are_required(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds neither model\.safetensors nor .*safetensors for"):
        Checkpoint(tmp_path)


def test_a_folder_with_bin_files_only_says_what_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"safetensors format; convert pytorch_model\.bin first"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_a_truncated_file_is_named(tiny: Path, size: int) -> None:
    path = tiny / SINGLE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=f"{re.escape(str(path))} is damaged"):
        Checkpoint(tiny)


def test_a_web_page_in_place_of_weights_is_named(tiny: Path) -> None:
    (tiny / SINGLE).write_bytes(b"<html>rate limited</html>" * 100)
    with pytest.raises(
        ModelError, match=r"model\.safetensors is damaged or not a safetensors file"
    ):
        Checkpoint(tiny)


def test_a_missing_tensor_is_named_with_its_shape(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"tensor 'lm_head\.bias' of shape \[50\] is missing"):
        read(tiny, "lm_head.bias", 50)


def test_a_misshapen_tensor_is_named_with_both_shapes(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"embed_tokens.*has shape \[50, 32\]; .* \[50, 64\]"):
        read(tiny, EMBEDDING, 50, 64)


def test_an_unexpected_dtype_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    save_file({EMBEDDING: torch.zeros(2, 3, dtype=torch.int8)}, tmp_path / SINGLE)
    with pytest.raises(ModelError, match=r"has dtype I8; supported are BF16, F16, F32"):
        read(tmp_path, EMBEDDING, 2, 3)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"index\.json names {shard.name}, which is missing"):
        Checkpoint(sharded)


def test_a_tensor_that_the_index_only_promises_is_named(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.ghost.weight"] = index["weight_map"][EMBEDDING]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"'model\.ghost\.weight', promised by .*, is missing"):
        read(sharded, "model.ghost.weight", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"index\.json is not valid JSON"),
        ("[]", r"index\.json must hold a JSON object, not list"),
        ("{}", r"weight_map must map tensors to files, not None"),
        ('{"weight_map": {"a": "../a.safetensors"}}', r"'\.\./a\.safetensors' must be the name"),
        ('{"weight_map": {"a": 1}}', r"1 must be the name of a file"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ModelError, match=message):
        Checkpoint(tmp_path)
