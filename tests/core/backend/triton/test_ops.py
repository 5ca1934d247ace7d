"""The ops as methods: they fit the references, and are bound without a choice at each call."""

from __future__ import annotations

import inspect
import sys
import types

import pytest
import torch

from windlass.backend import OpRegistry
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels import REFERENCES
from windlass.plugin import OpProvider
from windlass.plugin.triton_ops import triton_op_providers

PROVIDERS = triton_op_providers("neutral", "neutral_ops:OPS")


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.target)
def test_signatures_are_the_references(provider: OpProvider, neutral: TritonTuning) -> None:
    method = getattr(TritonOps(neutral), provider.target.rpartition(".")[2])
    theirs = inspect.signature(REFERENCES[provider.op])
    assert list(inspect.signature(method).parameters) == list(theirs.parameters)
    if provider.supports:
        supports = getattr(TritonOps(neutral), provider.supports.rpartition(".")[2])
        assert list(inspect.signature(supports).parameters) == list(theirs.parameters)


def test_ops_are_called_without_a_choice(
    tuning: TritonTuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but those that pack weights, once the object is loaded."""
    module = types.ModuleType("neutral_ops")
    own = module.OPS = TritonOps(tuning)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "neutral_ops", module)
    registry = OpRegistry(REFERENCES, PROVIDERS)
    for provider in PROVIDERS:
        method = provider.target.rpartition(".")[2]
        if not provider.supports:
            assert getattr(registry, provider.op) == getattr(own, method)
    x = torch.randn(3, 24).to(tuning.device_type)
    weight = torch.randn(24).to(x)
    torch.testing.assert_close(
        registry.rms_norm(x, weight, 1e-6), REFERENCES["rms_norm"](x, weight, 1e-6)
    )
