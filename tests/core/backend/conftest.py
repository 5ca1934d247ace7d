import pytest

from windlass.backend import BackendConfig, TorchBackend
from windlass.plugin import BackendSpec


@pytest.fixture
def backend() -> TorchBackend:
    """The torch defaults of every part, on the host."""
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    return TorchBackend(spec, BackendConfig())
