"""Every kernel compiles for chips that are not here: nothing spills, and shared memory suffices."""

from __future__ import annotations

import pytest

from windlass.plugin import BackendSpec
from windlass.testing.offline import compile_kernels

pytest.importorskip("triton.backends.nvidia")
pytest.importorskip("triton.backends.amd")

from windlass_cuda.kernel_specs import OFFLINE as CUDA
from windlass_cuda.plugin import SPEC as CUDA_SPEC
from windlass_rocm.arch import architecture_of
from windlass_rocm.kernel_specs import OFFLINE as ROCM
from windlass_rocm.plugin import SPEC as ROCM_SPEC

OFFLINE = {CUDA_SPEC.name: CUDA, ROCM_SPEC.name: ROCM}
QUICK = [(CUDA_SPEC, "sm_90"), (CUDA_SPEC, "sm_100"), (ROCM_SPEC, "gfx942"), (ROCM_SPEC, "gfx1100")]
"""One of each family; the others are slow together."""
ALL = [(spec, arch) for spec in (CUDA_SPEC, ROCM_SPEC) for arch in OFFLINE[spec.name].architectures]


@pytest.mark.parametrize(("spec", "arch"), QUICK, ids=[arch for _, arch in QUICK])
def test_kernels_are_as_they_should_be(spec: BackendSpec, arch: str) -> None:
    """In one of their uses: nothing spills, matrix instructions and wavefronts are the chip's."""
    compiled = compile_kernels(spec.offline, arch, specs="representative_specs")
    assert len(compiled) > 20
    problems = {kernel.name: OFFLINE[spec.name].problems(kernel, arch) for kernel in compiled}
    assert {name: found for name, found in problems.items() if found} == {}
    assert all("spilled_bytes" in kernel.facts for kernel in compiled)
    expected = [kernel.expects for kernel in compiled if kernel.expects]
    assert expected
    if spec is ROCM_SPEC:
        chip = architecture_of(arch)
        assert all(kernel.facts["lanes"] == chip.lanes for kernel in compiled)
        assert len(expected) >= 4
        assert all(chip.matrix_instruction in instructions for instructions in expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("spec", "arch"), ALL, ids=[arch for _, arch in ALL])
def test_every_use_is_as_it_should_be(spec: BackendSpec, arch: str) -> None:
    compiled = compile_kernels(spec.offline, arch, timeout=1200)
    problems = {kernel.name: OFFLINE[spec.name].problems(kernel, arch) for kernel in compiled}
    assert {name: found for name, found in problems.items() if found} == {}
