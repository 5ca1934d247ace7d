"""What a chip converts in one instruction gives the numbers that were stored, all of them."""

import torch
import triton
import triton.language as tl

from windlass_rocm.conversions import unpacked_by_fnuz
from windlass_rocm.tuning import RocmTuning


@triton.jit
def unpack(words, out, COUNT: tl.constexpr, convert: tl.constexpr):  # noqa: ANN001, ANN201
    place = tl.arange(0, COUNT)
    loaded = tl.load(words + place)
    tl.store(out + 2 * place, convert(loaded, 0, "fp8", tl.float32))
    tl.store(out + 2 * place + 1, convert(loaded, 1, "fp8", tl.float32))


def test_every_e4m3fn_number_is_read_by_way_of_e4m3fnuz() -> None:
    stored = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    expected = stored.view(torch.float8_e4m3fn).float()
    out = torch.empty(256)
    unpack[(1,)](stored.view(torch.int16), out, 128, unpacked_by_fnuz)
    numbers = expected.isfinite()
    assert numbers.sum() == 254
    assert torch.equal(out[numbers], expected[numbers])


def test_only_the_chip_that_has_no_other_reads_so() -> None:
    assert RocmTuning("gfx942", 304).unpack is unpacked_by_fnuz
    assert RocmTuning("gfx950", 256).unpack is not unpacked_by_fnuz
