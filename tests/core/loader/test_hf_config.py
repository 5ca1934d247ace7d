"""Reading config.json and generation_config.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.errors import ModelError
from windlass.loader.hf_config import eos_token_ids, read_hf_config


def test_a_configuration_names_its_architecture(tiny: Path) -> None:
    architecture, hf_config = read_hf_config(tiny)
    assert architecture == "LlamaForCausalLM"
    assert hf_config.num_hidden_layers == 2


def test_a_folder_without_config_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json cannot be read: No such file"):
        read_hf_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, r"architectures must name one, not None"),
        ({"architectures": []}, r"architectures must name one, not \[\]"),
        ({"architectures": ["GPT2LMHeadModel"]}, r"'GPT2LMHeadModel' is not supported; supp"),
        (
            {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoConfig": "own.OwnConfig"}},
            r"'OwnForCausalLM' is not supported.*brings its own code, auto_map",
        ),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
            r"config\.json is not valid.*running it is not supported",
        ),
        ({"model_type": "unheard-of"}, r"config\.json is not valid.*unheard-of"),
        ({"hidden_size": "wide"}, r"config\.json is not valid.*hidden_size"),
        ({"num_attention_heads": 5}, r"config\.json is not valid.*multiple of the number of att"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            r"config\.json is not valid.*llama3",
        ),
    ],
)
def test_a_wrong_configuration_is_explained(
    tiny: Path, edit_json: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    edit_json(tiny / "config.json", **changes)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        read_hf_config(tiny)


def test_own_code_beside_a_known_architecture_is_not_run(
    tiny: Path, edit_json: Callable[..., None]
) -> None:
    (tiny / "own.py").write_text("raise SystemExit('the checkpoint ran its code')")
    edit_json(tiny / "config.json", auto_map={"AutoConfig": "own.OwnConfig"})
    assert read_hf_config(tiny)[0] == "LlamaForCausalLM"


def test_generation_config_decides_what_ends_a_sequence(
    tiny: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(tiny / "generation_config.json", eos_token_id=[7, 9, 7])
    assert eos_token_ids(tiny, read_hf_config(tiny)[1]) == (7, 9)


def test_without_generation_config_the_configuration_decides(
    tiny: Path, edit_json: Callable[..., None]
) -> None:
    (tiny / "generation_config.json").unlink()
    edit_json(tiny / "config.json", eos_token_id=3)
    assert eos_token_ids(tiny, read_hf_config(tiny)[1]) == (3,)


def test_end_of_sequence_tokens_must_be_ids(tiny: Path, edit_json: Callable[..., None]) -> None:
    edit_json(tiny / "generation_config.json", eos_token_id="</s>")
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id must hold token"):
        eos_token_ids(tiny, read_hf_config(tiny)[1])
