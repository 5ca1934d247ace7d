"""Every kernel compiles for chips that are not here: nothing spills, and shared memory suffices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from windlass.testing.offline import CompiledKernel, compile_kernels

pytest.importorskip("triton.backends.nvidia")

from windlass_cuda.kernel_specs import OFFLINE
from windlass_cuda.plugin import SPEC

ARCHITECTURES = ("sm_90", "sm_100")


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
    """They compile, nothing spills, shared memory suffices, matrix instructions are the chip's."""
    assert len(compiled[arch]) > 20
    problems = {kernel.name: OFFLINE.problems(kernel, arch) for kernel in compiled[arch]}
    assert {name: found for name, found in problems.items() if found} == {}
    assert all("spilled_bytes" in kernel.facts for kernel in compiled[arch])
    assert any(kernel.expects for kernel in compiled[arch])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", OFFLINE.architectures)
def test_every_use_is_as_it_should_be(arch: str) -> None:
    for kernel in compile_kernels(SPEC.offline, arch, timeout=1200):
        assert not OFFLINE.problems(kernel, arch), kernel.name


def test_a_chip_without_fp8_refuses_it() -> None:
    results = compile_kernels(SPEC.offline, "sm_80", specs="fp8_cache_specs")
    assert results
    for kernel in results:
        assert "fp8e4nv not supported" in kernel.error
