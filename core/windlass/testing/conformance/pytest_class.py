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

    def _prove(self, level: str) -> None:
        import pytest

        report = prove(Target(self.backend, self.plugin), [level])
        if report.failures:
            pytest.fail(f"{len(report.failures)} cases failed\n{report.failure_text()}", False)
        if not report.proven:
            pytest.skip("; ".join(sorted({skip.reason for skip in report.skips})))
