from __future__ import annotations

from pathlib import Path

import pytest

from windlass.errors import ModelError
from windlass.text import load_generation_defaults


def write(folder: Path, text: str) -> str:
    (folder / "generation_config.json").write_text(text)
    return str(folder)


def test_only_sampling_fields_are_taken(tmp_path: Path) -> None:
    model = write(
        tmp_path,
        '{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": null, "do_sample": true,'
        ' "repetition_penalty": 1.05, "eos_token_id": [1, 2]}',
    )
    assert load_generation_defaults(model) == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }


def test_no_file_means_no_defaults(tmp_path: Path) -> None:
    assert load_generation_defaults(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"temperature": "hot"}', "temperature must be a number, not 'hot'"),
        ('{"top_k": true}', "top_k must be a number, not True"),
        ('{"top_p": 1.5}', "top_p must be between 0 and 1, not 1.5"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=r"generation_config\.json") as caught:
        load_generation_defaults(write(tmp_path, text))
    assert message in str(caught.value)
