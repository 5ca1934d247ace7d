"""The kit as a class of tests that a plugin's own tests subclass."""

from __future__ import annotations

from typing import ClassVar

from windlass.testing.conformance.run import Target, prove


class BackendConformance:
    """Subclass it under a name that starts with `Test`, and set `backend`.

    `plugin` names the plugin's module where the plugin is not installed.
    """

    backend: ClassVar[str]
    plugin: ClassVar[str] = ""

    def test_hygiene(self) -> None:
        """L0: discovery is light and valid."""
        self._prove("L0")

    def test_device_and_allocator(self) -> None:
        """L1: streams, events, and blocks of the cache."""
        self._prove("L1")

    def test_ops(self) -> None:
        """L2: every op of every provider."""
        self._prove("L2")

    def test_attention(self) -> None:
        """L3: paged attention."""
        self._prove("L3")

    def test_engine(self) -> None:
        """L4: whole models, as the engine runs them."""
        self._prove("L4")

    def test_graphs(self) -> None:
        """L5: captured steps, replayed."""
        self._prove("L5")

    def test_collectives(self) -> None:
        """L6: two ranks."""
        self._prove("L6")

    def test_offline_compilation(self) -> None:
        """L7: kernels compiled for chips that need not be here."""
        self._prove("L7")

    def _prove(self, level: str) -> None:
        import pytest

        report = prove(Target(self.backend, self.plugin), [level])
        if report.failures:
            pytest.fail(f"{len(report.failures)} cases failed\n{report.failure_text()}", False)
        if not any(outcome.status == "passed" for outcome in report.outcomes):
            why = {outcome.reason for outcome in (*report.skips, *report.absences)}
            pytest.skip("; ".join(sorted(why)))
