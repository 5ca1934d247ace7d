"""The backend is proved by Windlass' conformance kit: `pytest tests` after installing it."""

import pytest

from windlass.testing.conformance import BackendConformance


@pytest.mark.timeout(0)
class TestJaxBackend(BackendConformance):
    """L1 to L3 have nothing to prove: the backend runs models itself."""

    backend = "jax"
