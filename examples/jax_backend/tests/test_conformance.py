"""The backend is proved by Windlass' conformance kit: `pytest tests` after installing it."""

import pytest

from windlass.testing.conformance import BackendConformance


@pytest.fixture(autouse=True)
def compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit compiles much and computes little: its processes inherit this."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.mark.timeout(0)
class TestJaxBackend(BackendConformance):
    """L1 to L3 have nothing to prove: the backend runs models itself."""

    backend = "jax"
