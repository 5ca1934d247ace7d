"""Every kernel compiles for chips that are not here: nothing spills, and shared memory suffices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from windlass.testing.offline import CompiledKernel, compile_offline

pytest.importorskip("triton.backends.nvidia")

from windlass_cuda.kernel_specs import SHARED_BYTES, target_of

ARCHITECTURES = ("sm_90", "sm_100")
SPECS = "windlass_cuda.kernel_specs"


def compile_for(arch: str, specs: str = "representative_specs") -> list[CompiledKernel]:
    return compile_offline(
        f"{SPECS}:{specs}",
        target_of(arch),
        inspect=f"{SPECS}:inspect_kernel",
        arguments=[arch],
    )


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[CompiledKernel]]:
    """All kernels in one of their uses, by architecture; two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ARCHITECTURES, pool.map(compile_for, ARCHITECTURES), strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile(compiled: dict[str, list[CompiledKernel]], arch: str) -> None:
    assert len(compiled[arch]) > 20
    assert {kernel.name: kernel.error for kernel in compiled[arch] if kernel.error} == {}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_spills(compiled: dict[str, list[CompiledKernel]], arch: str) -> None:
    spilled = {
        kernel.name: kernel.facts["spilled_bytes"]
        for kernel in compiled[arch]
        if not kernel.error and not kernel.may_spill and kernel.facts["spilled_bytes"]
    }
    assert spilled == {}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shared_memory_suffices(compiled: dict[str, list[CompiledKernel]], arch: str) -> None:
    too_much = {
        kernel.name: kernel.shared_bytes
        for kernel in compiled[arch]
        if kernel.shared_bytes > SHARED_BYTES[arch]
    }
    assert too_much == {}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_matrix_instructions_are_the_chips(
    compiled: dict[str, list[CompiledKernel]], arch: str
) -> None:
    missing = {kernel.name: kernel.missing for kernel in compiled[arch] if kernel.missing}
    assert missing == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", ["sm_80", *ARCHITECTURES])
def test_every_use_compiles(arch: str) -> None:
    for kernel in compile_for(arch, "kernel_specs"):
        assert not kernel.error, kernel.name
        assert kernel.may_spill or not kernel.facts["spilled_bytes"], kernel.name
        assert kernel.shared_bytes <= SHARED_BYTES[arch], kernel.name
        assert not kernel.missing, kernel.name


def test_a_chip_without_fp8_refuses_it() -> None:
    results = compile_for("sm_80", "fp8_cache_specs")
    assert results
    for kernel in results:
        assert "fp8e4nv not supported" in kernel.error
