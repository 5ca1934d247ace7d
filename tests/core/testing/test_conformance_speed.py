"""L8: what it measures, and when it fails all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from windlass.backend import AttentionParams, KVPool, TorchAttention, TorchBackend
from windlass.config import BackendConfig
from windlass.plugin import BackendSpec
from windlass.testing.conformance import speed
from windlass.testing.conformance.cases import Outcome, check_all


class NoAttention(TorchAttention):
    """Writes nothing into the output that could be read."""

    def run(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        plan: object,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None = None,
    ) -> None:
        out.fill_(torch.nan)


def backend() -> TorchBackend:
    made = TorchBackend(
        BackendSpec(name="host", target="", device_type="cpu", priority=1), BackendConfig()
    )
    made.capabilities = replace(made.capabilities, dtypes=(torch.float32,))
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which nothing is worth measuring, so that the test is quick."""
    for name, value in {"_COPIED": 1 << 16, "_REQUESTS": 2, "_LENGTH": 32, "_OUTPUTS": 64}.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "_SECONDS_A_REPEAT", 1e-4)


def outcomes(measured: TorchBackend) -> list[Outcome]:
    return list(check_all("L8", speed.speed_cases(measured)))


def test_attention_and_linears_are_measured_beside_a_copy() -> None:
    found = outcomes(backend())
    assert [outcome.status for outcome in found] == ["passed"] * 3
    for outcome in found:
        share = outcome.measured["share of copy"]
        assert 0 < outcome.measured["lowest share"] <= share <= outcome.measured["highest share"]
        assert outcome.measured["bytes per second"] > 0
        assert outcome.measured["copy bytes per second"] > 0


def test_nonsense_is_not_measured() -> None:
    broken = backend()
    broken.attention = NoAttention()
    assert outcomes(broken)[0].reason == "the output is not finite"
