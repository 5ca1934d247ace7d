"""From a folder or a hub id to a decoder with its weights on a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windlass.loader.load import LoadedModel, load_decoder

__all__ = ["LoadedModel", "load_decoder"]


def __getattr__(name: str) -> object:
    # Late, because a front end resolves model folders without needing torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from windlass.loader import load

    return getattr(load, name)
