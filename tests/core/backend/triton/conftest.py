"""The tuning under test: of no chip in the interpreter, of its plugin on an accelerator."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.config import BackendConfig
from windlass.plugin import create_backend

pytest.importorskip("triton")

from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


class NeutralTuning(TritonTuning):
    """The defaults of everything that has one; it can do all that the interpreter can."""

    has_fp8 = True

    def decode_config(
        self, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> DecodeConfig:
        """One for all."""
        return DecodeConfig(tile=32, num_stages=1, minimum_run=1)

    def prefill_config(self, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
        """One for all."""
        return PrefillConfig(query_rows=max(32, 1 << (group - 1).bit_length()), tile=32)


@pytest.fixture(scope="session")
def neutral() -> TritonTuning:
    """A tuning of no chip."""
    return NeutralTuning("neutral", 2, "cpu")


@pytest.fixture(scope="session")
def tuning(neutral: TritonTuning) -> TritonTuning:
    """That of the accelerator which is here, when kernels are not interpreted."""
    if INTERPRETED:
        return neutral
    found = getattr(create_backend(BackendConfig()), "tuning", None)
    if not isinstance(found, TritonTuning):
        pytest.skip("the backend here is not one of Triton kernels")
    return found


@pytest.fixture(scope="session")
def device(tuning: TritonTuning) -> torch.device:
    """Where the tuning's kernels run."""
    return torch.device(tuning.device_type)
