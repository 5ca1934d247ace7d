"""Kernels for the offline compiler: each complete, named once, and as the tuning launches it."""

from __future__ import annotations

import copy

import torch

from windlass.backend.triton.kernel_specs import kernel_specs
from windlass.backend.triton.row_specs import fp8_cache_specs
from windlass.backend.triton.tuning import TritonTuning


def test_every_kernel_is_complete_and_named_once(neutral: TritonTuning) -> None:
    specs = kernel_specs(neutral)
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names) > 50
    for spec in specs:
        assert set(spec.signature) == set(spec.function.arg_names), spec.name
        constants = {name for name, kind in spec.signature.items() if kind == "constexpr"}
        assert constants == set(spec.constants), spec.name


def test_kernels_of_fp8_are_left_out_where_it_cannot_be_converted(neutral: TritonTuning) -> None:
    without = copy.copy(neutral)
    without.has_fp8 = False
    with_fp8 = {spec.name for spec in kernel_specs(neutral)}
    left = {spec.name for spec in kernel_specs(without)}
    assert left < with_fp8
    assert not any("fp8" in name for name in left)
    for dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        assert len(fp8_cache_specs(without, dtype)) == 2


def test_a_chip_says_what_a_product_must_contain(neutral: TritonTuning) -> None:
    class Matrix(type(neutral)):  # type: ignore[misc]
        may_spill = frozenset({"paged prefill 128 x 5 bf16"})

        def expects(self, kernel: str, rows: int) -> frozenset[str]:
            return frozenset({kernel}) if rows >= 64 else frozenset()

    specs = kernel_specs(Matrix("matrix", 4, "cpu"))
    assert {name for spec in specs for name in spec.expects} == {"quantized", "experts"}
    assert [spec.name for spec in specs if spec.may_spill] == ["paged prefill 128 x 5 bf16"]
