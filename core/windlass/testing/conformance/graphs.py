"""L5: captured steps, replayed, against the same steps run op by op."""

from __future__ import annotations

from collections.abc import Iterator

from windlass.backend import Backend
from windlass.testing.conformance.cases import Case


def graph_cases(backend: Backend) -> Iterator[Case]:
    """The cases of L5 for one backend; none yet."""
    del backend
    yield from ()
