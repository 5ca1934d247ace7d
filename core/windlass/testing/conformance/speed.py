"""L8: how fast a backend is here, as numbers; nothing fails for being slow."""

from __future__ import annotations

from collections.abc import Iterator

from windlass.backend import Backend
from windlass.testing.conformance.cases import Case


def speed_cases(backend: Backend) -> Iterator[Case]:
    """The cases of L8 for one backend; none yet."""
    del backend
    yield from ()
