"""Small numbers to wider ones by what a chip converts in one instruction."""

from __future__ import annotations

import triton
import triton.language as tl

from windlass.kernels.triton.quantized_linear import unpacked


@triton.jit
def unpacked_by_fnuz(  # noqa: ANN201
    words,  # noqa: ANN001
    PART: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """`windlass.kernels.triton.quantized_linear.unpacked` where only e4m3fnuz is converted.

    The bits of an e4m3fn number are in e4m3fnuz half of it, for the bias is one more; but for -0,
    whose bits mean NaN there.
    """
    if FORMAT == "fp8":
        byte = (words >> 8 * PART & 255).to(tl.uint8)
        byte = tl.where(byte == 128, 0, byte).to(tl.uint8)
        numbers = (byte.to(tl.float8e4b8, bitcast=True).to(tl.float32) * 2.0).to(DTYPE)
    else:
        numbers = unpacked(words, PART, FORMAT, DTYPE)
    return numbers
