"""The reference in `docs/api` is what signatures and docstrings say today."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.authoring import api, reference
from windlass.authoring.api import MODULES, describe

DOCS = Path(__file__).parents[3] / "docs/api"
REFRESH = "python -m windlass.authoring.reference docs/api"


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == reference.pages()[name], REFRESH


def test_no_other_page_is_there() -> None:
    assert {path.name for path in DOCS.iterdir()} == reference.pages().keys()


def test_what_takes_tensors_says_their_shapes() -> None:
    assert not reference.without_shapes()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    kinds = ("class", "function", "property")
    bare = [entry.path for entry in describe(module) if entry.kind in kinds and not entry.doc]
    assert not [path for path in bare if not path.rpartition(".")[2].startswith("__")]


SOURCE = '''
"""A module."""
from windlass.kernels.linear import DenseWeight

__all__ = ["DenseWeight", "Card", "scale", "undocumented"]

class Card:
    """A card."""

    lanes: int = 32
    """How many numbers it adds at once."""

    @property
    def wide(self) -> bool:
        """Whether it has many."""
        return self.lanes > 32

    def _private(self): ...

def scale(x: torch.Tensor, *, by: float = 1.0) -> torch.Tensor:
    """`x` `[T, H]` times `by`."""

def undocumented(x: torch.Tensor) -> torch.Tensor:
    """Does something with `x`."""
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a package `windlass` that has this and the true `kernels`."""
    (tmp_path / "windlass").mkdir()
    (tmp_path / "windlass/kernels").symlink_to(api.ROOT / "kernels")
    (tmp_path / "windlass/card.py").write_text(SOURCE)
    monkeypatch.setattr(api, "ROOT", tmp_path / "windlass")
    monkeypatch.setattr(reference, "MODULES", ("windlass.card",))
    return "windlass.card"


def test_names_are_followed_to_where_they_are_defined(module: str) -> None:
    entries = {entry.path: entry for entry in describe(module)}
    assert entries["scale"].signature == (
        "scale(x: torch.Tensor, *, by: float=1.0) -> torch.Tensor"
    )
    assert entries["Card.lanes"].signature == "Card.lanes: int = 32"
    assert entries["Card.lanes"].doc == "How many numbers it adds at once."
    assert entries["Card.wide"].kind == "property"
    assert "Card._private" not in entries
    assert "the weight" in entries["DenseWeight"].doc.lower()


def test_a_tensor_without_a_shape_is_found(module: str) -> None:
    assert reference.without_shapes() == [f"{module} undocumented"]
