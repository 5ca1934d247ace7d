"""Finding a model's folder, without a network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from windlass.errors import ModelError
from windlass.loader.location import resolve_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache on a machine that is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_folder_is_its_own_location(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match=r"is a file; give the folder that holds config\.json"):
        resolve_model(str(path))


@pytest.mark.parametrize(
    "model", ["./nowhere", "/no/where", "~/nowhere", "a/b/c", "../no-such-folder"]
)
def test_a_path_that_does_not_exist_is_not_looked_up_in_the_hub(model: str) -> None:
    with pytest.raises(ModelError, match=f"model '{model}': there is no such folder"):
        resolve_model(model)


def test_offline_the_cache_answers(cache: Path) -> None:
    repository = cache / "models--someone--model"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    assert resolve_model("someone/model", weights=False) == snapshot


@pytest.mark.usefixtures("cache")
def test_offline_an_unknown_hub_id_says_where_was_looked() -> None:
    with pytest.raises(
        ModelError, match=r"'someone/model' at revision 'v2' is neither a local folder nor avail"
    ):
        resolve_model("someone/model", "v2")
