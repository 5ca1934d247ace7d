// Vectors of 32-bit numbers as wide as the instruction set of the including file, and the number
// formats that tensors store.
//
// Everything stands in an unnamed namespace: each instruction set's file must keep its own copy,
// where the linker would otherwise merge them into one that not every processor can run.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace windlass {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Floats broadcast(float value) { return value - Floats{}; }
inline Ints broadcast(int32_t value) { return value - Ints{}; }

inline Ints lane_numbers() {
  Ints numbers;
  for (int i = 0; i < kLanes; ++i) numbers[i] = i;
  return numbers;
}

// Of two numbers of which one is not a number, b.
inline Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
inline Floats minimum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

template <typename Vector>
inline Vector load_bits(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

// The first `count` 16-bit numbers, then zeros.
inline Halves load_halves(const void* from, int count) {
#if defined(__AVX512F__)
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  return bit_cast<Halves>(_mm256_maskz_loadu_epi16(mask, from));
#else
  Halves halves{};
  std::memcpy(&halves, from, count * sizeof(uint16_t));
  return halves;
#endif
}

inline Words widen(Halves halves) {
#if defined(__AVX512F__)
  return bit_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xffff, bit_cast<__m256i>(halves)));
#elif defined(__AVX2__)
  return bit_cast<Words>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(halves)));
#else
  return __builtin_convertvector(halves, Words);
#endif
}

// The lower 16 bits of each word.
inline Halves narrow(Words words) {
#if defined(__AVX512F__)
  return bit_cast<Halves>(_mm512_maskz_cvtepi32_epi16(0xffff, bit_cast<__m512i>(words)));
#else
  return __builtin_convertvector(words, Halves);
#endif
}

inline Floats to_floats(BFloat16, Halves halves) { return bit_cast<Floats>(widen(halves) << 16); }

inline Floats to_floats(Float16, Halves halves) {
#if defined(__AVX512F__)
  // The form with a mask: GCC 12 warns of the other that its unused operand is undefined.
  return _mm512_maskz_cvtph_ps(0xffff, bit_cast<__m256i>(halves));
#elif defined(__AVX2__)
  return bit_cast<Floats>(_mm256_cvtph_ps(bit_cast<__m128i>(halves)));
#else
  // The exponent's bias differs by 112: a product with 2^112 also normalises subnormal numbers.
  const Words words = widen(halves);
  const Words sign = (words & 0x8000u) << 16;
  const Words magnitude = (words & 0x7fffu) << 13;
  const Words special = magnitude >= (0x7c00u << 13) ? Words{} + 0x7f800000u : Words{};
  const Floats scaled = bit_cast<Floats>(magnitude) * 0x1p112f;
  return bit_cast<Floats>(bit_cast<Words>(scaled) | special | sign);
#endif
}

// Rounds to the nearest, ties to even, as torch does.
inline Halves to_halves(BFloat16, Floats floats) {
  const Words words = bit_cast<Words>(floats);
  const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
  const Words nan = Words{} + 0x7fc0u;
  return narrow(floats == floats ? rounded : nan);
}

inline Halves to_halves(Float16, Floats floats) {
#if defined(__AVX512F__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return bit_cast<Halves>(_mm512_maskz_cvtps_ph(0xffff, floats, kNearest));
#elif defined(__AVX2__)
  return bit_cast<Halves>(_mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const Words words = bit_cast<Words>(floats);
  const Words sign = (words >> 16) & 0x8000u;
  const Words magnitude = words & 0x7fffffffu;
  // Subnormal halves: adding 0.5 leaves the rounded half in the lowest bits.
  const Words small = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000u;
  const Words odd = (magnitude >> 13) & 1u;
  const Words normal = (magnitude - (112u << 23) + 0xfffu + odd) >> 13;
  const Words infinity = magnitude > 0x7f800000u ? Words{} + 0x7e00u : Words{} + 0x7c00u;
  const Words finite = magnitude < (113u << 23) ? small : normal;
  return narrow((magnitude >= (143u << 23) ? infinity : finite) | sign);
#endif
}

inline Floats load(const float* from) { return load_bits<Floats>(from); }
template <typename Half>
inline Floats load(const Half* from) {
  return to_floats(Half{}, load_bits<Halves>(from));
}

// The first `count` numbers, then zeros; nothing beyond them is read.
inline Floats load(const float* from, int count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
  Floats floats{};
  std::memcpy(&floats, from, count * sizeof(float));
  return floats;
#endif
}
template <typename Half>
inline Floats load(const Half* from, int count) {
  return to_floats(Half{}, load_halves(from, count));
}

inline void store(float* to, Floats floats) { std::memcpy(to, &floats, sizeof(floats)); }
inline void store(float* to, Floats floats, int count) {
  std::memcpy(to, &floats, count * sizeof(float));
}
template <typename Half>
inline void store(Half* to, Floats floats, int count = kLanes) {
  const Halves halves = to_halves(Half{}, floats);
  std::memcpy(to, &halves, count * sizeof(uint16_t));
}

// One step of a butterfly over two vectors: lanes whose number has the bit `kStep` come from b.
template <int kStep, typename Vector>
inline Vector lower_halves(Vector a, Vector b) {
  Ints pick;
  for (int i = 0; i < kLanes; ++i) pick[i] = (i & kStep) ? (i ^ kStep) + kLanes : i;
  return __builtin_shuffle(a, b, pick);
}
template <int kStep, typename Vector>
inline Vector upper_halves(Vector a, Vector b) {
  Ints pick;
  for (int i = 0; i < kLanes; ++i) pick[i] = (i & kStep) ? i + kLanes : (i ^ kStep);
  return __builtin_shuffle(a, b, pick);
}

template <int kStep = kLanes / 2, typename Vector>
inline void transpose(Vector* rows) {
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    const Vector a = rows[i], b = rows[i + kStep];
    rows[i] = lower_halves<kStep>(a, b);
    rows[i + kStep] = upper_halves<kStep>(a, b);
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

// Lane i of the result is the sum of the lanes of rows[i].
template <int kStep = kLanes / 2>
inline Floats row_sums(Floats* rows) {
  for (int i = 0; i < kStep; ++i) {
    const Floats a = rows[i], b = rows[i + kStep];
    rows[i] = lower_halves<kStep>(a, b) + upper_halves<kStep>(a, b);
  }
  if constexpr (kStep > 1) return row_sums<kStep / 2>(rows);
  return rows[0];
}

template <int kStep>
inline Floats swap_lanes(Floats floats) {
  Ints pick;
  for (int i = 0; i < kLanes; ++i) pick[i] = i ^ kStep;
  return __builtin_shuffle(floats, pick);
}
template <int kStep = kLanes / 2>
inline float sum_of_lanes(Floats floats) {
  floats += swap_lanes<kStep>(floats);
  if constexpr (kStep > 1) return sum_of_lanes<kStep / 2>(floats);
  return floats[0];
}
template <int kStep = kLanes / 2>
inline float largest_lane(Floats floats) {
  floats = maximum(floats, swap_lanes<kStep>(floats));
  if constexpr (kStep > 1) return largest_lane<kStep / 2>(floats);
  return floats[0];
}

// e^x within 2 units in the last place; exactly 0 below -87.4, as for minus infinity.
inline Floats exponential(Floats x) {
  x = minimum(broadcast(88.0f), maximum(broadcast(-88.0f), x));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
  const Floats shifted = x * 1.44269504f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Words exponent = (bit_cast<Words>(shifted) - 0x4b400000u + 127u) << 23;
  return p * bit_cast<Floats>(exponent);
}

// tanh(x), absolute error below 2e-7.
inline Floats hyperbolic_tangent(Floats x) {
  x = minimum(broadcast(10.0f), maximum(broadcast(-10.0f), x));
  return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
}

}  // namespace
}  // namespace windlass
