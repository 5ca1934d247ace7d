"""L7: a plugin's kernels, compiled for chips that need not be here."""

from __future__ import annotations

from collections.abc import Iterator

from windlass.plugin.discovery import PluginSource
from windlass.testing.conformance.cases import Case


def offline_cases(source: PluginSource) -> Iterator[Case]:
    """The cases of L7 for one plugin, which needs no device; none yet."""
    del source
    yield from ()
