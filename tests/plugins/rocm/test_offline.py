"""Every kernel compiles for AMD's chips: nothing spills, matrix instructions are the family's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from windlass.testing.offline import CompiledKernel, compile_kernels, compile_offline

pytest.importorskip("triton.backends.amd")

from windlass_rocm.arch import architecture_of
from windlass_rocm.kernel_specs import OFFLINE
from windlass_rocm.plugin import SPEC

ARCHITECTURES = ("gfx942", "gfx1100")
"""One of each family; the others are slow together."""


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[CompiledKernel]]:
    """All kernels in one of their uses, by architecture; two processes at a time."""

    def compiled_for(arch: str) -> list[CompiledKernel]:
        return compile_kernels(SPEC.offline, arch, specs="representative_specs")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ARCHITECTURES, pool.map(compiled_for, ARCHITECTURES), strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_are_as_they_should_be(
    compiled: dict[str, list[CompiledKernel]], arch: str
) -> None:
    """They compile, nothing spills, wavefronts and matrix instructions are the family's."""
    assert len(compiled[arch]) > 20
    problems = {kernel.name: OFFLINE.problems(kernel, arch) for kernel in compiled[arch]}
    assert {name: found for name, found in problems.items() if found} == {}
    chip = architecture_of(arch)
    for kernel in compiled[arch]:
        assert kernel.facts["registers"] > 0
        assert kernel.facts["lanes"] == chip.lanes
    expected = [kernel for kernel in compiled[arch] if kernel.expects]
    assert len(expected) >= 4
    assert all(chip.matrix_instruction in kernel.expects for kernel in expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", OFFLINE.architectures)
def test_every_use_is_as_it_should_be(arch: str) -> None:
    problems = {
        kernel.name: OFFLINE.problems(kernel, arch)
        for kernel in compile_kernels(SPEC.offline, arch, timeout=1200)
    }
    assert {name: found for name, found in problems.items() if found} == {}


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
