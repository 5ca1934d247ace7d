"""L6: every collective operation between two ranks."""

from __future__ import annotations

from collections.abc import Iterator

from windlass.testing.conformance.cases import Case


def collective_cases(backend: str, plugin: str) -> Iterator[Case]:
    """The cases of L6; none yet."""
    del backend, plugin
    yield from ()
