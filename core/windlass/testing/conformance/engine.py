"""L4: whole models, as the engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from windlass.backend import Backend
from windlass.config import BackendConfig
from windlass.testing.conformance.cases import Case


def engine_cases(make_backend: Callable[[BackendConfig], Backend], folder: Path) -> Iterator[Case]:
    """The cases of L4; none yet."""
    del make_backend, folder
    yield from ()
