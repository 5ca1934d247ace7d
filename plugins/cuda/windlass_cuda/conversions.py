"""Small numbers to bf16 in few instructions for two of them.

Bits of an integer are put into the fraction of a bf16 number from 128 to 256, whose steps are 1;
what was added is subtracted again, exactly (Kim et al., 2022, "Who Says Elephants Can't Run").
"""

from __future__ import annotations

import triton
import triton.language as tl

from windlass.kernels.triton.quantized_linear import unpacked


def _int4(part: int) -> tl.constexpr:
    """0x43 above four bits is 128 more than they are; 136 is subtracted."""
    return tl.constexpr(f"""{{
        .reg .b32 bits, one, offset;
        mov.b32 one, 0x3F803F80;
        mov.b32 offset, 0xC308C308;
        shr.u32 bits, $1, {4 * part};
        lop3.b32 bits, bits, 0x000F000F, 0x43004300, 0xEA;
        fma.rn.bf16x2 $0, bits, one, offset;
    }}""")


def _int8(part: int) -> tl.constexpr:
    """128 and seven bits, less 128 or, as the sign bit is the exponent's lowest, 256."""
    return tl.constexpr(f"""{{
        .reg .b32 bits, magnitude, sign, minus_one;
        mov.b32 minus_one, 0xBF80BF80;
        shr.u32 bits, $1, {8 * part};
        lop3.b32 magnitude, bits, 0x007F007F, 0x43004300, 0xEA;
        lop3.b32 sign, bits, 0x00800080, 0x43004300, 0xEA;
        fma.rn.bf16x2 $0, sign, minus_one, magnitude;
    }}""")


def _fp8(part: int) -> tl.constexpr:
    """By way of fp16 and fp32."""
    return tl.constexpr(f"""{{
        .reg .b32 bits, halves;
        .reg .b16 pair, rest, low, high;
        .reg .f32 first, second;
        prmt.b32 bits, $1, 0, {(0x4420, 0x4431)[part]};
        mov.b32 {{pair, rest}}, bits;
        cvt.rn.f16x2.e4m3x2 halves, pair;
        mov.b32 {{low, high}}, halves;
        cvt.f32.f16 first, low;
        cvt.f32.f16 second, high;
        cvt.rn.bf16x2.f32 $0, second, first;
    }}""")


_INT4_0, _INT4_1, _INT4_2, _INT4_3 = map(_int4, range(4))
_INT8_0, _INT8_1 = map(_int8, range(2))
_FP8_0, _FP8_1 = map(_fp8, range(2))


@triton.jit
def _two_words(words, ASSEMBLY: tl.constexpr):  # noqa: ANN001, ANN202
    return tl.inline_asm_elementwise(
        ASSEMBLY, "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def unpacked_to_bf16(  # noqa: ANN201
    words,  # noqa: ANN001
    PART: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """`windlass.kernels.triton.quantized_linear.unpacked`, faster where `DTYPE` is bf16."""
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        if FORMAT == "fp8":
            numbers = _two_words(words, _FP8_0 if PART == 0 else _FP8_1)
        elif FORMAT == "int8":
            numbers = _two_words(words, _INT8_0 if PART == 0 else _INT8_1)
        elif PART < 2:
            numbers = _two_words(words, _INT4_0 if PART == 0 else _INT4_1)
        else:
            numbers = _two_words(words, _INT4_2 if PART == 2 else _INT4_3)
    else:
        numbers = unpacked(words, PART, FORMAT, DTYPE)
    return numbers
