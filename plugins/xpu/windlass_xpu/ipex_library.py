"""Imports Intel Extension for PyTorch, which does not like the company it finds here."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from windlass.errors import BackendNotAvailableError

_PACKAGE = "intel_extension_for_pytorch"


@cache
def ipex_module(name: str) -> Any:  # noqa: ANN401 - the extension has no types
    """The extension's module `name`, such as "llm.modules".

    The extension patches models of `transformers` 4 and breaks at the import of version 5, so it
    must not see that package; it needs it for nothing that is used here.

    Raises:
        BackendNotAvailableError: it cannot be imported. Whatever it raises or calls, for with a
            wrong torch it tries to end the process.
    """
    try:
        with hidden("transformers"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(_PACKAGE)
            return importlib.import_module(f"{_PACKAGE}.{name}")
    except (Exception, SystemExit) as exc:
        raise BackendNotAvailableError(
            f"Intel Extension for PyTorch cannot be imported: {type(exc).__name__}: {exc}. "
            "It needs torch 2.8 and a processor with AVX2"
        ) from exc


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Make importing `package` fail inside the block, whether or not it was imported before."""
    inside = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    held = {name: sys.modules.pop(name) for name in inside}
    sys.modules[package] = None  # type: ignore[assignment]  # Python's way to say "not there"
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(held)
