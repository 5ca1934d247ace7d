"""What is wrong with a kernel is told, and a chip converts its own fp8 alone."""

from __future__ import annotations

import pytest

from windlass.testing.offline import CompiledKernel, compile_kernels, compile_offline

pytest.importorskip("triton.backends.amd")

from windlass_rocm.kernel_specs import OFFLINE
from windlass_rocm.plugin import SPEC


def test_problems_are_told() -> None:
    facts = {"lanes": 32, "spilled_registers": 7, "spilled_bytes": 32, "mfma": 0}
    kernel = CompiledKernel(name="k", shared_bytes=1 << 17, facts=facts, expects=("mfma",))
    assert OFFLINE.problems(kernel, "gfx942") == [
        "it has no mfma instruction",
        "it takes 131072 B of shared memory, of 65536",
        "it spills 32 B a lane",
        "it spills 7 vector registers",
        "its wavefronts have 32 lanes, not 64",
    ]


def test_another_vendors_chip_refuses_the_fp8_without_negative_zero() -> None:
    specs = "windlass_rocm.kernel_specs:OFFLINE.fp8_cache_specs"
    results = compile_offline(specs, ("cuda", 90, 32), arguments=["gfx942"])
    assert results
    for kernel in results:
        assert "fp8e4b8 not supported" in kernel.error


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_a_chip_converts_its_own_fp8_in_one_instruction(arch: str) -> None:
    for kernel in compile_kernels(SPEC.offline, arch, specs="fp8_cache_specs"):
        assert not OFFLINE.problems(kernel, arch)
        assert kernel.facts["fp8"] > 0
