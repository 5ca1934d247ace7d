// Vectors of numbers that take a byte: int8, and fp8 with four bits of exponent and three of
// mantissa, no infinity (e4m3fn: Micikevicius et al., FP8 Formats for Deep Learning, 2022).
#pragma once

#include "vector.h"

namespace windlass {

struct Int8 {
  int8_t number;
};

// Loads give a 256th of the number: exponents are read as those of a float16.
struct Float8 {
  uint8_t bits;
};

constexpr float kFloat8Unit = 256.0f;
constexpr float kFloat8Largest = 448.0f;

namespace {

typedef int8_t Bytes __attribute__((vector_size(kLanes)));
typedef int16_t Shorts __attribute__((vector_size(kLanes * 2)));

// The first `count` bytes, then zeros.
inline Bytes load_bytes(const void* from, int count) {
#if defined(__AVX512F__)
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  return bit_cast<Bytes>(_mm_maskz_loadu_epi8(mask, from));
#else
  Bytes bytes{};
  std::memcpy(&bytes, from, count);
  return bytes;
#endif
}

inline Shorts widen_signed(Bytes bytes) {
#if defined(__AVX512F__)
  return bit_cast<Shorts>(_mm256_cvtepi8_epi16(bit_cast<__m128i>(bytes)));
#elif defined(__AVX2__)
  return bit_cast<Shorts>(_mm_cvtepi8_epi16(_mm_cvtsi64_si128(bit_cast<int64_t>(bytes))));
#else
  return __builtin_convertvector(bytes, Shorts);
#endif
}

// The lowest byte of each word.
inline Bytes lowest_bytes(Words words) {
#if defined(__AVX512F__)
  return bit_cast<Bytes>(_mm512_maskz_cvtepi32_epi8(0xffff, bit_cast<__m512i>(words)));
#else
  return __builtin_convertvector(words, Bytes);
#endif
}

inline Floats to_floats(Int8, Bytes bytes) {
#if defined(__AVX512F__)
  const __m512i integers = _mm512_maskz_cvtepi8_epi32(0xffff, bit_cast<__m128i>(bytes));
  return _mm512_maskz_cvtepi32_ps(0xffff, integers);
#elif defined(__AVX2__)
  const __m128i low = _mm_cvtsi64_si128(bit_cast<int64_t>(bytes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
#else
  return __builtin_convertvector(bytes, Floats);
#endif
}

// Float16 numbers of widened Float8.
template <typename Vector>
inline Vector to_float16(Vector widened) {
  // Two copies of the sign, then exponent and mantissa at the places of a float16. The lower copy
  // is the exponent's highest bit: 0, or 1 in a NaN, where alone a carry reaches it.
  const Vector halves = widened << 7;
  return halves ^ ((halves + uint16_t{0x80}) & uint16_t{0x4000});
}

inline Floats to_floats(Float8, Bytes bytes) {
  return to_floats(Float16{}, to_float16(bit_cast<Halves>(widen_signed(bytes))));
}

inline Floats load(const Int8* from) { return to_floats(Int8{}, load_bits<Bytes>(from)); }
inline Floats load(const Float8* from) { return to_floats(Float8{}, load_bits<Bytes>(from)); }
inline Floats load(const Int8* from, int count) {
  return to_floats(Int8{}, load_bytes(from, count));
}
inline Floats load(const Float8* from, int count) {
  return to_floats(Float8{}, load_bytes(from, count));
}

// Numbers within [-127, 127], rounded to the nearest, ties to even.
inline Bytes to_bytes(Int8, Floats floats) {
#if defined(__AVX512F__)
  return lowest_bytes(bit_cast<Words>(_mm512_maskz_cvtps_epi32(0xffff, floats)));
#elif defined(__AVX2__)
  return lowest_bytes(bit_cast<Words>(_mm256_cvtps_epi32(floats)));
#else
  Bytes bytes;
  for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<int8_t>(__builtin_rintf(floats[i]));
  return bytes;
#endif
}

// Rounded to the nearest, ties to even, the largest number where that is beyond it.
inline Bytes to_bytes(Float8, Floats floats) {
  const Words words = bit_cast<Words>(floats);
  const Words sign = (words >> 24) & 0x80u;
  const Words all = words & 0x7fffffffu;
  const Words largest = bit_cast<Words>(broadcast(kFloat8Largest));
  const Words magnitude = all < largest ? all : largest;
  // Subnormal numbers: adding 2^14 leaves the rounded number in the lowest bits.
  const Words small = bit_cast<Words>(bit_cast<Floats>(magnitude) + 16384.0f) - 0x46800000u;
  const Words odd = (magnitude >> 20) & 1u;
  const Words normal = ((magnitude + 0x7ffffu + odd) >> 20) - (120u << 3);
  const Words finite = magnitude < (121u << 23) ? small : normal;
  return lowest_bytes((all > 0x7f800000u ? Words{} + 0x7fu : finite) | sign);
}

inline void store(Int8* to, Floats floats, int count = kLanes) {
  const Bytes bytes = to_bytes(Int8{}, floats);
  std::memcpy(to, &bytes, count);
}
inline void store(Float8* to, Floats floats, int count = kLanes) {
  const Bytes bytes = to_bytes(Float8{}, floats);
  std::memcpy(to, &bytes, count);
}

}  // namespace
}  // namespace windlass
