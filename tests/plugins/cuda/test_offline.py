"""What a chip cannot do is refused by the compiler."""

from __future__ import annotations

import pytest

from windlass.testing.offline import compile_kernels

pytest.importorskip("triton.backends.nvidia")

from windlass_cuda.plugin import SPEC


def test_a_chip_without_fp8_refuses_it() -> None:
    results = compile_kernels(SPEC.offline, "sm_80", specs="fp8_cache_specs")
    assert results
    for kernel in results:
        assert "fp8e4nv not supported" in kernel.error
