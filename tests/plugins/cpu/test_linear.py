"""The linear kernels against products in fp32, at every instruction set of this processor.

A result may differ by half a unit in the last place of its bf16 rounding, and by what summing K
products in fp32 in another order changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import Quantization, QuantizedWeight
from windlass_cpu import library
from windlass_cpu.linear import (
    Bf16Weight,
    Int4Weight,
    Int8Weight,
    KernelWeight,
    kernels,
    pack_weight,
    supports_pack_weight,
)

BF16_HALF_UNIT = 2.0**-8
FP32_UNIT = 2.0**-23
GUARD = 0x5A
EMULATED_TILES = "emulated tiles"
"""AMX's code over tiles in plain C++, which every processor runs."""


def levels() -> list[str]:
    """The instruction sets of this processor, or none without the kernel library."""
    try:
        best = library.best_isa()
    except OSError:
        return []
    return list(library.ISA_NAMES[: library.ISA_NAMES.index(best) + 1])


pytestmark = pytest.mark.skipif(not levels(), reason="the kernel library is not built")
many = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[*levels(), EMULATED_TILES])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every level in turn, its bf16 dot products and tiles used wherever it has them."""
    use_dot = library.load_library().windlass_linear_bf16_use_dot
    use_tiles = library.load_library().windlass_linear_use_tiles
    emulated = request.param == EMULATED_TILES
    before = use_dot(1), use_tiles(int(emulated or request.param == "amx"))
    library.force_isa("scalar" if emulated else request.param)
    yield request.param
    library.force_isa(library.best_isa())
    use_dot(before[0])
    use_tiles(before[1])


shapes = st.tuples(
    st.one_of(st.integers(0, 40), st.sampled_from([64, 97, 300])),
    st.one_of(st.integers(1, 150), st.sampled_from([256, 1000, 2048])),
    st.one_of(st.integers(1, 150), st.sampled_from([320, 513])),
)


FORMATS = (Bf16Weight, Int8Weight, Int4Weight)
INT4_GROUP = 32
every_format = pytest.mark.parametrize("packing", FORMATS)


def random(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Normal bf16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).bfloat16()


def summing_error(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far two fp32 sums of the same products may lie apart: `[T, N]`.

    Rounding errors add like a random walk; four times its expected length is never reached.
    """
    magnitude = x.float().square() @ weight.float().square().T
    return 4 * FP32_UNIT * (x.shape[1] * magnitude).sqrt() + 1e-30


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product in fp64."""
    result = x.double() @ weight.double().T
    return result if bias is None else result + bias.double()


def assert_close(
    result: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor, *, rounded: bool
) -> None:
    """Every element within `allowed`, and what rounding to fp32, or to bf16 if `rounded`, adds."""
    allowed = allowed + FP32_UNIT * expected.abs()
    if rounded:
        allowed = allowed + BF16_HALF_UNIT * (expected.abs() + allowed)
    excess = ((result.double() - expected).abs() - allowed).amax() if result.numel() else 0.0
    assert excess <= 0


@many
@given(shape=shapes, with_bias=st.booleans(), rounded=st.booleans(), seed=st.integers(0, 2**31))
def test_the_product_equals_the_fp32_one(
    isa: str, shape: tuple[int, int, int], with_bias: bool, rounded: bool, seed: int
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1)
    bias = random(outputs, seed=seed + 2) if with_bias else None
    packed = Bf16Weight(weight)
    result = packed.apply(x, bias) if rounded else packed.apply_float(x, bias)
    assert result.shape == (rows, outputs)
    assert_close(result, exact(x, weight, bias), summing_error(x, weight), rounded=rounded)


@every_format
@many
@given(shape=shapes, gap=st.integers(0, 9), start=st.integers(0, 9), seed=st.integers(0, 2**31))
def test_rows_may_lie_anywhere(
    isa: str,
    packing: type[KernelWeight],
    shape: tuple[int, int, int],
    gap: int,
    start: int,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    wide = random(rows, start + inputs + gap, seed=seed)
    x = wide[:, start : start + inputs]
    tall = random(outputs, inputs + gap, seed=seed + 1)
    weight = tall[:, :inputs]
    result = packing(weight).apply(x)
    assert torch.equal(result, packing(weight.contiguous()).apply(x.contiguous()))


@every_format
@many
@given(shape=shapes, gap=st.integers(0, 5), wide=st.booleans(), seed=st.integers(0, 2**31))
def test_nothing_is_written_beside_the_output(
    isa: str,
    packing: type[KernelWeight],
    shape: tuple[int, int, int],
    gap: int,
    wide: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1)
    packed = packing(weight)
    dtype = torch.float32 if wide else torch.bfloat16
    stride, size = outputs + gap, dtype.itemsize
    guarded = torch.full(((rows * stride + 64) * size,), GUARD, dtype=torch.uint8)
    kernels(packing.weight_format).multiply(
        packed.address, outputs, inputs, x.data_ptr(), inputs, rows, None,
        guarded.data_ptr() + 32 * size, stride, wide,
    )  # fmt: skip
    table = guarded[32 * size : (32 + rows * stride) * size].view(rows, stride * size)
    assert torch.equal(
        table[:, : outputs * size].contiguous().view(dtype),
        packed.apply_float(x) if wide else packed.apply(x),
    )
    assert (table[:, outputs * size :] == GUARD).all()
    assert (guarded[: 32 * size] == GUARD).all()
    assert (guarded[(32 + rows * stride) * size :] == GUARD).all()


@every_format
def test_a_row_does_not_depend_on_the_others(isa: str, packing: type[KernelWeight]) -> None:
    x, weight = random(40, 256, seed=1), random(96, 256, seed=2)
    packed = packing(weight)
    allowed = summing_error(x, weight)
    together = packed.apply_float(x)
    for row in range(40):
        alone = packed.apply_float(x[row : row + 1])
        assert_close(alone, together[row : row + 1].double(), allowed[row], rounded=False)
    x[0, 7] = float("nan")
    spoilt = packed.apply_float(x)
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1:], together[1:])


def rounded_to_int8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as integers up to 127, and what one of them stands for."""
    scale = values.float().abs().amax(1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return (values.float() * inverse).round().clamp(-127, 127), scale


@many
@given(
    shape=shapes,
    wide=st.booleans(),
    with_bias=st.booleans(),
    rounded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_int8_computes_exactly_what_its_rounding_leaves(
    isa: str,
    shape: tuple[int, int, int],
    wide: bool,
    with_bias: bool,
    rounded: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1, scale=0.02)
    bias = random(outputs, seed=seed + 2) if with_bias else None
    packed = Int8Weight(weight.float() if wide else weight)
    result = packed.apply(x, bias) if rounded else packed.apply_float(x, bias)
    (x_integers, x_scale), (w_integers, w_scale) = rounded_to_int8(x), rounded_to_int8(weight)
    product = exact(x_integers, w_integers, None) * x_scale.double() * w_scale.T.double()
    expected = product if bias is None else product + bias.double()
    assert_close(result, expected, 4 * FP32_UNIT * product.abs(), rounded=rounded)


@pytest.mark.parametrize("value", [1e-40, 1e38, -3e38])
def test_int8_keeps_very_small_and_very_large_numbers_finite(isa: str, value: float) -> None:
    weight = torch.tensor([[value, 0.0], [0.0, 1.0]])
    result = Int8Weight(weight).apply_float(torch.tensor([[1.0, 0.5]]).bfloat16())
    assert result.isfinite().all()
    assert result[0, 0] == pytest.approx(value, rel=0.01, abs=1e-38)
    assert result[0, 1] == pytest.approx(0.5, rel=0.01)


def test_zeros_stay_zeros_in_int8(isa: str) -> None:
    weight, bias = random(5, 33, seed=1), random(5, seed=2)
    weight[3] = 0
    x = random(3, 33, seed=3)
    x[1] = 0
    result = Int8Weight(weight).apply(x, bias)
    assert torch.equal(result[1], bias)
    assert torch.equal(result[:, 3], bias[3].expand(3))


def test_more_inputs_than_int8_sums_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        Int8Weight(torch.zeros(1, 65537))


def test_int8_sums_hold_as_many_inputs_as_are_allowed(isa: str) -> None:
    ones = torch.ones(1, 65536, dtype=torch.bfloat16)
    for sign in (1, -1):
        result = Int8Weight(sign * ones).apply_float(ones)
        assert result.item() == pytest.approx(sign * 65536, rel=1e-6)


def grouped(values: torch.Tensor, group: int) -> torch.Tensor:
    """`[N, K]` as `[N, groups, group]`, with zeros at the end."""
    rows, columns = values.shape
    count = -(-columns // group)
    padded = torch.nn.functional.pad(values, (0, count * group - columns))
    return padded.view(rows, count, group)


def unpacked(packed: KernelWeight) -> torch.Tensor:
    """The weight `[N, K]` that an int4 packing stands for: what it makes of the unit vectors."""
    return packed.apply_float(torch.eye(packed.in_features).bfloat16()).T


@many
@given(
    shape=shapes,
    wide=st.booleans(),
    with_bias=st.booleans(),
    rounded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_int4_computes_exactly_what_its_rounding_leaves(
    isa: str,
    shape: tuple[int, int, int],
    wide: bool,
    with_bias: bool,
    rounded: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1, scale=0.02)
    bias = random(outputs, seed=seed + 2) if with_bias else None
    packed = Int4Weight(weight.float() if wide else weight)
    result = packed.apply(x, bias) if rounded else packed.apply_float(x, bias)
    groups = grouped(x, INT4_GROUP)
    integers, scale = rounded_to_int8(groups.flatten(0, 1))
    x_left = (integers * scale).view_as(groups).flatten(1)[:, :inputs]
    w_left = unpacked(packed)
    allowed = summing_error(x_left, w_left)
    assert_close(result, exact(x_left, w_left, bias), allowed, rounded=rounded)


@given(columns=st.integers(1, 300), seed=st.integers(0, 2**31))
@many
def test_int4_rounds_no_worse_than_with_the_largest_weight_as_minus_eight(
    isa: str, columns: int, seed: int
) -> None:
    weight = random(7, columns, seed=seed, scale=0.02).float()
    groups = grouped(weight, INT4_GROUP)
    error = (grouped(unpacked(Int4Weight(weight)), INT4_GROUP) - groups).square().sum(2)
    largest = groups.abs().amax(2, keepdim=True)
    allowed = torch.zeros_like(error)
    for sign, is_there in ((1, (groups == largest).any(2)), (-1, (groups == -largest).any(2))):
        scale = (sign * largest / -8).half().float()
        inverse = torch.where(scale != 0, 1 / scale, 0.0)
        plain = (groups * inverse).round().clamp(-8, 7) * scale
        allowed = torch.where(is_there, (plain - groups).square().sum(2).maximum(allowed), allowed)
    assert (error <= allowed * 1.0001 + 1e-12).all()


def test_int4_keeps_weights_that_it_can_represent(isa: str) -> None:
    generator = torch.Generator().manual_seed(6)
    levels = torch.randint(-8, 8, (9, 256), generator=generator)
    levels[:, ::32] = -8
    scales = torch.tensor([2.0**-9, 1.5, 0.0, 3.0517578125e-05, -0.75]).repeat(2)[:9, None]
    weight = levels * scales
    assert torch.allclose(unpacked(Int4Weight(weight)), weight, rtol=1e-6, atol=0)


def test_an_outlier_spoils_its_own_group_only() -> None:
    x, weight = random(1, 512, seed=7), random(3, 512, seed=8)
    x[0, :128], weight[:, 0] = 0.0, 0.0
    x[0, 0] = 1000.0
    exact_result = exact(x, weight, None)
    error = (Int4Weight(weight).apply_float(x) - exact_result).norm() / exact_result.norm()
    whole_row = (Int8Weight(weight).apply_float(x) - exact_result).norm() / exact_result.norm()
    assert error < 0.25
    assert whole_row > 0.25


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@many
@given(shape=shapes, with_bias=st.booleans(), seed=st.integers(0, 2**31))
def test_kernels_round_as_the_reference_does(
    isa: str,
    quantization: Quantization,
    shape: tuple[int, int, int],
    with_bias: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1, scale=0.02)
    bias = random(outputs, seed=seed + 2) if with_bias else None
    reference = QuantizedWeight(weight, quantization).apply_float(x, bias)
    found = pack_weight(weight, quantization).apply_float(x, bias)
    # Where two scales leave the same error in a group of an int4 channel, either may be taken.
    off = (found - reference).abs() > summing_error(x, weight) + FP32_UNIT * reference.abs()
    assert off.any(0).sum() <= (1 if quantization == "int4" else 0)


@pytest.mark.parametrize("packing", [Int8Weight, Int4Weight])
def test_a_quantised_row_is_the_same_in_every_batch(packing: type[KernelWeight], isa: str) -> None:
    x, packed = random(70, 544, seed=1), packing(random(96, 544, seed=2))
    together = packed.apply_float(x)
    for count in (1, 3, 17):
        parts = [packed.apply_float(part) for part in torch.split(x, count)]
        assert torch.equal(torch.cat(parts), together)


def test_not_a_number_and_infinity_survive(isa: str) -> None:
    weight = torch.eye(3, dtype=torch.bfloat16)
    x = torch.tensor([[float("inf"), 1, 2]], dtype=torch.bfloat16)
    bias = torch.tensor([0, float("nan"), float("-inf")], dtype=torch.bfloat16)
    result = Bf16Weight(weight).apply(x, bias)
    assert result[0, 0].isnan() or result[0, 0].isinf()
    assert result[0, 1].isnan()
    assert not result[0, 2].isfinite()


@every_format
def test_every_number_of_threads_gives_the_same_numbers(
    isa: str, packing: type[KernelWeight]
) -> None:
    packed = packing(random(200, 700, seed=3))
    try:
        for rows in (1, 50, 600):
            x = random(rows, 700, seed=rows)
            library.set_threads(1)
            alone = packed.apply(x)
            library.set_threads(5)
            assert torch.equal(packed.apply(x), alone)
    finally:
        library.set_threads(torch.get_num_threads())


def test_a_weight_outlives_the_tensor_it_was_made_from() -> None:
    weight = random(33, 65, seed=4)
    expected = Bf16Weight(weight.clone()).apply(torch.ones(1, 65, dtype=torch.bfloat16))
    packed = pack_weight(weight)
    weight.zero_()
    assert torch.equal(packed.apply(torch.ones(1, 65, dtype=torch.bfloat16)), expected)
    assert (packed.out_features, packed.in_features, packed.nbytes) == (33, 65, 64 * 72 * 2)


def test_a_transposed_view_is_packed_as_what_it_shows() -> None:
    weight = random(48, 40, seed=5).T
    x = random(2, 48, seed=6)
    assert torch.equal(Bf16Weight(weight).apply(x), Bf16Weight(weight.contiguous()).apply(x))
    columns = random(48, 2, seed=7).T
    assert torch.equal(
        Bf16Weight(weight).apply(columns), Bf16Weight(weight).apply(columns.contiguous())
    )


def test_only_bf16_matrices_are_taken() -> None:
    assert supports_pack_weight(torch.zeros(4, 4, dtype=torch.bfloat16))
    for dtype in (torch.float32, torch.float16):
        assert "bfloat16" in supports_pack_weight(torch.zeros(4, 4, dtype=dtype)).reason
    assert not supports_pack_weight(torch.zeros(4, dtype=torch.bfloat16))
    assert "fp8" in supports_pack_weight(torch.zeros(4, 4, dtype=torch.bfloat16), "fp8").reason


def test_inputs_beyond_what_integer_sums_hold_are_left_to_the_reference() -> None:
    weight = torch.zeros(1, 65537, dtype=torch.bfloat16)
    assert "65536" in supports_pack_weight(weight, "int8").reason


@pytest.mark.parametrize(
    ("x", "bias"),
    [
        (torch.zeros(2, 8), None),
        (torch.zeros(2, 7, dtype=torch.bfloat16), None),
        (torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(4)),
        (torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
        (torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(8, dtype=torch.bfloat16)[::2]),
    ],
)
def test_what_would_read_foreign_memory_is_refused(
    x: torch.Tensor, bias: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match="expected"):
        Bf16Weight(torch.zeros(4, 8, dtype=torch.bfloat16)).apply(x, bias)


@pytest.mark.parametrize("name", ["windlass_linear_bf16_use_dot", "windlass_linear_use_tiles"])
def test_the_choice_of_instructions_is_a_switch(name: str) -> None:
    switch = library.load_library()[name]
    switch.argtypes = [ctypes.c_int]
    before = switch(0)
    assert switch(before) == 0


@pytest.mark.skipif("amx" in levels(), reason="the processor has AMX")
def test_amx_is_refused_where_the_processor_has_none() -> None:
    with pytest.raises(ValueError, match="no amx: its best level is"):
        library.force_isa("amx")


@pytest.mark.skipif("amx" not in levels(), reason="the processor has no AMX")
def test_amx_takes_the_smallest_numbers_as_zero() -> None:
    small = torch.full((32, 32), 2.0**-130, dtype=torch.bfloat16)
    ones = torch.ones(32, 32, dtype=torch.bfloat16)
    assert (Bf16Weight(ones).apply_float(small) == 0).all()
    assert (Bf16Weight(small).apply_float(ones) == 0).all()


@pytest.mark.skipif("amx" not in levels(), reason="the processor has no AMX")
@pytest.mark.parametrize("packing", [Bf16Weight, Int8Weight])
@many
@given(shape=shapes, seed=st.integers(0, 2**31))
def test_products_with_and_without_amx_may_take_turns(
    packing: type[KernelWeight], shape: tuple[int, int, int], seed: int
) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1)
    packed = packing(weight)
    first = packed.apply_float(x)
    theirs = torch.nn.functional.linear(x, weight)
    assert torch.equal(packed.apply_float(x), first)
    assert torch.equal(torch.nn.functional.linear(x, weight), theirs)
