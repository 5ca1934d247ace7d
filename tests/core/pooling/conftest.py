"""Tiny models that embed or score, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from windlass.testing.tiny_pooling_models import write_tiny_pooling_model

MakeModel = Callable[..., tuple[Path, PreTrainedModel]]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """(folder, model in float32) of a family; always a folder of its own."""

    def make(family: str, auto_class: str = "AutoModel", **changes: Any) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(family)
        return folder, write_tiny_pooling_model(family, folder, auto_class, **changes)

    return make


@pytest.fixture(scope="session")
def bert(make_model: MakeModel) -> tuple[Path, PreTrainedModel]:
    return make_model("bert")
