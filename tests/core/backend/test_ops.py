"""The op registry: visible order, reasons, nothing swallowed."""

import sys
import types
from collections.abc import Iterator

import pytest
import torch

from windlass.backend import OpRegistry, OwnOp, Support
from windlass.errors import ConfigError, PluginError
from windlass.plugin import OpProvider


def reference(x: torch.Tensor, scale: float = 1.0) -> str:
    return "reference"


@pytest.fixture(autouse=True)
def vendor() -> Iterator[None]:
    """A kernel library with a general op, a picky op and one that raises."""
    module = types.ModuleType("vendor_ops")
    module.general = lambda x, scale=1.0: "general"  # type: ignore[attr-defined]
    module.picky = lambda x, scale=1.0: "picky"  # type: ignore[attr-defined]
    module.picky_supports = lambda x, scale=1.0: (  # type: ignore[attr-defined]
        Support() if x.shape[-1] % 8 == 0 else Support.no("size is no multiple of 8")
    )

    def raises(x: torch.Tensor, scale: float = 1.0) -> str:
        raise RuntimeError("kernel failed")

    module.raises = raises  # type: ignore[attr-defined]
    sys.modules["vendor_ops"] = module
    yield
    del sys.modules["vendor_ops"]


def provider(name: str, priority: int = 0, supports: str = "", arch: str = "") -> OpProvider:
    return OpProvider(
        op="scale",
        name=name,
        target=f"vendor_ops:{name}",
        supports=supports,
        priority=priority,
        arch=frozenset({arch} if arch else ()),
    )


def test_without_providers_the_reference_is_called_directly() -> None:
    ops = OpRegistry({"scale": reference})
    assert ops.scale is reference


def test_the_highest_priority_wins() -> None:
    ops = OpRegistry({"scale": reference}, [provider("general", 1), provider("raises", 0)])
    assert ops.scale(torch.zeros(1)) == "general"


def test_a_backends_own_ops_stand_among_the_providers() -> None:
    def own(x: torch.Tensor) -> str:
        return "own"

    def supports(x: torch.Tensor) -> Support:
        return Support.no("an odd size") if x.shape[-1] % 2 else Support()

    ours = OwnOp(op="scale", name="ours", function=own, supports=supports, priority=3)
    low, high = provider("general", 2), provider("general", 4)
    assert OpRegistry({"scale": reference}, [low], own=[ours]).scale(torch.zeros(2)) == "own"
    assert OpRegistry({"scale": reference}, [low], own=[ours]).scale(torch.zeros(1)) == "general"
    assert OpRegistry({"scale": reference}, [high], own=[ours]).scale(torch.zeros(2)) == "general"
    named = OpRegistry({"scale": reference}, [high], own=[ours], order={"scale": ["ours"]})
    assert named.scale(torch.zeros(2)) == "own"


def test_a_provider_that_declines_is_passed_over_per_shape() -> None:
    picky = provider("picky", 5, supports="vendor_ops:picky_supports")
    ops = OpRegistry({"scale": reference}, [picky])
    assert ops.scale(torch.zeros(2, 16)) == "picky"
    assert ops.scale(torch.zeros(2, 15)) == "reference"
    assert ops.scale(torch.zeros(9, 16), scale=2.0) == "picky"


def test_the_users_order_comes_first() -> None:
    providers = [provider("general", 9), provider("raises", 1)]
    ops = OpRegistry({"scale": reference}, providers, order={"scale": ["reference"]})
    assert ops.scale(torch.zeros(1)) == "reference"


def test_an_exception_of_a_provider_is_not_swallowed() -> None:
    ops = OpRegistry({"scale": reference}, [provider("raises")])
    with pytest.raises(RuntimeError, match="kernel failed"):
        ops.scale(torch.zeros(1))


def test_a_failed_import_is_left_out_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    missing = OpProvider(op="scale", name="missing", target="no_such_module:f", priority=9)
    ops = OpRegistry({"scale": reference}, [missing])
    assert ops.scale(torch.zeros(1)) == "reference"
    (op,) = ops
    assert "No module named 'no_such_module'" in op.candidates[0].rejected
    assert "no_such_module" in caplog.text


def test_another_architectures_provider_is_not_imported() -> None:
    ops = OpRegistry({"scale": reference}, [provider("general", arch="v9")], arch="v7")
    assert ops.scale is reference
    (op,) = ops
    assert op.candidates[0].rejected == "not for architecture 'v7'"


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="there is no op 'scael'"):
        OpRegistry({"scale": reference}, order={"scael": ["reference"]})
    with pytest.raises(ConfigError, match="'scale' has no provider 'fast'; it has: reference"):
        OpRegistry({"scale": reference}, order={"scale": ["fast"]})
    with pytest.raises(AttributeError, match="there is no op 'scael'; there are: scale"):
        OpRegistry({"scale": reference}).scael  # noqa: B018


def test_no_provider_left_is_an_error_with_every_reason() -> None:
    picky = provider("picky", supports="vendor_ops:picky_supports")
    ops = OpRegistry({"scale": reference}, [picky])
    (op,) = ops
    op.candidates = op.candidates[:1]
    with pytest.raises(PluginError, match="picky: size is no multiple of 8"):
        op(torch.zeros(3))
