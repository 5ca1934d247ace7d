"""The ops as methods: they fit the references, and are bound without a choice at each call."""

from __future__ import annotations

import inspect

import torch

from windlass.backend import OpRegistry
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels import REFERENCES


def test_signatures_are_the_references(neutral: TritonTuning) -> None:
    for own in TritonOps(neutral).own_ops():
        parameters = list(inspect.signature(REFERENCES[own.op]).parameters)
        assert list(inspect.signature(own.function).parameters) == parameters
        if own.supports is not None:
            assert list(inspect.signature(own.supports).parameters) == parameters


def test_ops_are_called_without_a_choice(tuning: TritonTuning) -> None:
    """All but those that pack weights."""
    ops = TritonOps(tuning)
    registry = OpRegistry(REFERENCES, own=ops.own_ops())
    for own in ops.own_ops():
        if own.supports is None:
            assert getattr(registry, own.op) == own.function
    x = torch.randn(3, 24).to(tuning.device_type)
    weight = torch.randn(24).to(x)
    torch.testing.assert_close(
        registry.rms_norm(x, weight, 1e-6), REFERENCES["rms_norm"](x, weight, 1e-6)
    )


def test_each_registry_has_the_ops_of_its_own_chip(neutral: TritonTuning) -> None:
    other = type(neutral)("other", 7, "cpu")
    one, two = (OpRegistry(REFERENCES, own=TritonOps(t).own_ops()) for t in (neutral, other))
    assert one.pack_weight.candidates[0].function.__self__._tuning is neutral
    assert two.pack_weight.candidates[0].function.__self__._tuning is other
