"""From settings to a backend object, through a plugin of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

from windlass.backend import TorchBackend
from windlass.config import BackendConfig
from windlass.errors import BackendNotAvailableError, ConfigError, PluginError
from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    OpProvider,
    create_backend,
    hookimpl,
)


def double_norm(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """An rms_norm that can be told from the reference."""
    del args, kwargs
    return x * 2


def refuse(*args: object, **kwargs: object) -> None:
    raise RuntimeError("no kernel image for this device")


def leave(*args: object, **kwargs: object) -> None:
    raise SystemExit(4)


def not_a_backend(*args: object, **kwargs: object) -> str:
    return "a backend, honestly"


@pytest.fixture
def toy(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """This test module under a name that a target can be imported by."""
    module = ModuleType("toy_backend")
    names = ("double_norm", "refuse", "leave", "not_a_backend")
    module.__dict__.update({name: globals()[name] for name in names})
    module.__dict__["Backend"] = TorchBackend
    sys.modules["toy_backend"] = module
    yield module
    del sys.modules["toy_backend"]


def plugin(
    target: str = "toy_backend:Backend", offered: Iterable[OpProvider] = ()
) -> SimpleNamespace:
    """A plugin named "toy" with two devices of different architecture."""

    @hookimpl
    def windlass_backend() -> BackendSpec:
        return BackendSpec(name="toy", target=target, device_type="cpu", priority=1)

    @hookimpl
    def windlass_probe() -> Availability:
        return Availability.available(
            DeviceDescription(index=0, name="small toy", arch="toy1"),
            DeviceDescription(index=1, name="big toy", arch="toy2"),
        )

    @hookimpl
    def windlass_op_providers(backend: str, arch: str) -> Iterable[OpProvider]:
        assert (backend, arch) in (("toy", "toy1"), ("toy", "toy2"))
        return offered

    return SimpleNamespace(
        windlass_backend=windlass_backend,
        windlass_probe=windlass_probe,
        windlass_op_providers=windlass_op_providers,
    )


TOY = BackendConfig(backend="toy")


def test_a_backend_is_made_from_the_plugins_target(toy: ModuleType) -> None:
    backend = create_backend(TOY, extra={"toy": plugin()})
    assert isinstance(backend, TorchBackend)
    assert backend.spec.name == "toy"
    assert backend.device.torch_device == torch.device("cpu")


def test_the_plugins_op_providers_are_used_for_the_architecture_they_are_for(
    toy: ModuleType,
) -> None:
    provider = OpProvider(
        op="rms_norm", name="double", target="toy_backend:double_norm", arch=frozenset({"toy2"})
    )
    hooks = {"toy": plugin(offered=[provider])}
    x, weight = torch.ones(1, 4), torch.ones(4)
    big = create_backend(BackendConfig(backend="toy", device_index=1), extra=hooks)
    assert torch.equal(big.ops.rms_norm(x, weight, 0.0), x * 2)
    small = create_backend(TOY, extra=hooks)
    assert torch.equal(small.ops.rms_norm(x, weight, 0.0), x)


def test_a_device_index_out_of_range_lists_the_devices(toy: ModuleType) -> None:
    config = BackendConfig(backend="toy", device_index=2)
    with pytest.raises(ConfigError, match=r"not 2; it has: 0 \(small toy\), 1 \(big toy\)"):
        create_backend(config, extra={"toy": plugin()})


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("toy_backend:refuse", "RuntimeError: no kernel image for this device"),
        ("toy_backend:leave", "SystemExit: 4"),
        ("toy_backend:missing", "AttributeError"),
        ("toy_missing:Backend", "ModuleNotFoundError: No module named 'toy_missing'"),
        ("toy_backend:not_a_backend", "returned a str, not a windlass.backend.Backend"),
    ],
)
def test_a_target_that_fails_is_a_plugin_error_that_names_the_plugin(
    toy: ModuleType, target: str, reason: str
) -> None:
    with pytest.raises(PluginError, match=r"plugin 'toy' \(this process\)") as caught:
        create_backend(TOY, extra={"toy": plugin(target)})
    assert reason in str(caught.value)


def test_op_providers_that_cannot_be_listed_are_a_plugin_error(toy: ModuleType) -> None:
    def broken() -> Iterator[OpProvider]:
        raise OSError("libtoy.so is missing")
        yield

    with pytest.raises(PluginError, match=r"plugin 'toy'.*OSError: libtoy.so is missing"):
        create_backend(TOY, extra={"toy": plugin(offered=broken())})


def test_a_setting_that_names_no_op_stays_a_config_error(toy: ModuleType) -> None:
    config = BackendConfig(backend="toy", ops={"rms_nrom": ["double"]})
    with pytest.raises(ConfigError, match="there is no op 'rms_nrom'"):
        create_backend(config, extra={"toy": plugin()})


def test_the_error_for_an_unknown_backend_says_what_else_is_installed() -> None:
    with pytest.raises(BackendNotAvailableError, match=r"(?s)no backend 'tpy'.*cpu  +available"):
        create_backend(BackendConfig(backend="tpy"))


def test_the_cpu_backend_can_be_made_wherever_torch_is() -> None:
    cpu = create_backend(BackendConfig(backend="cpu"))
    assert cpu.spec.name == "cpu"
