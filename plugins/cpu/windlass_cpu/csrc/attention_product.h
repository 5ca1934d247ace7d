// How attention multiplies: the operands of a product are vectors of 32-bit units.
//
// A unit is one float32, or, where the processor multiplies pairs of bfloat16 with a float32 sum,
// two bfloat16. A unit's numbers are neighbouring channels in Q K^T, neighbouring tokens in P V.
#pragma once

#include "vector.h"

namespace windlass {
namespace {

template <typename T>
struct FloatProduct {
  using Number = T;
  using Weight = float;
  using Unit = float;
  using Vector = Floats;
  static constexpr int kNumbers = 1;  // of a unit

  static Vector load(const T* from) { return windlass::load(from); }
  static Vector load(const T* from, int count) { return windlass::load(from, count); }
  static Vector load_units(const Unit* from) { return windlass::load(from); }
  static Vector broadcast_unit(const void* from) { return broadcast(load_bits<float>(from)); }
  static Floats multiply_add(Vector a, Vector b, Floats sum) { return a * b + sum; }
  static void store_weights(Weight* to, Floats weights) { store(to, weights); }

  // Values of 2 * kLanes channels of one token.
  static void load_values(const T* row, int64_t, bool, Vector (&values)[2]) {
    values[0] = load(row);
    values[1] = load(row + kLanes);
  }
  static void load_values(const T* row, int64_t, bool, Vector (&values)[2], int channels) {
    values[0] = load(row, channels < kLanes ? channels : kLanes);
    values[1] = load(row + kLanes, channels < kLanes ? 0 : channels - kLanes);
  }
  // Puts what products with such values gave in the order of channels.
  template <typename Any>
  static void restore_order(Any&, Any&) {}
  // Values in the order of channels, zeros for tokens that are left out.
  static void load_value_units(const T* row, int64_t stride, bool first, bool, int channels,
                               Vector (&values)[2]) {
    if (!first) return;
    if (channels == 2 * kLanes) return load_values(row, stride, false, values);
    load_values(row, stride, false, values, channels);
  }
};

#if defined(__AVX512BF16__)

struct PairProduct {
  using Number = BFloat16;
  using Weight = BFloat16;
  using Unit = uint32_t;
  using Vector = Words;
  static constexpr int kNumbers = 2;

  static Vector load(const BFloat16* from) { return load_bits<Vector>(from); }
  static Vector load(const BFloat16* from, int count) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
    return bit_cast<Vector>(_mm512_maskz_loadu_epi16(mask, from));
  }
  static Vector load_units(const Unit* from) { return load_bits<Vector>(from); }
  static Vector broadcast_unit(const void* from) { return load_bits<uint32_t>(from) + Vector{}; }
  static Floats multiply_add(Vector a, Vector b, Floats sum) {
    return _mm512_dpbf16_ps(sum, bit_cast<__m512bh>(a), bit_cast<__m512bh>(b));
  }
  static void store_weights(Weight* to, Floats weights) {
    const __m256bh halves = _mm512_cvtneps_pbh(weights);
    std::memcpy(to, &halves, sizeof(halves));
  }

  // Values of 32 channels of two tokens, or of one and zeros; in the order of the instruction.
  static void load_values(const BFloat16* row, int64_t stride, bool both, Vector (&values)[2]) {
    interleave(load(row), both ? load(row + stride) : Vector{}, values);
  }
  static void load_values(const BFloat16* row, int64_t stride, bool both, Vector (&values)[2],
                          int channels) {
    interleave(load(row, channels), both ? load(row + stride, channels) : Vector{}, values);
  }
  // The instruction interleaves within 128 bits: four units of the first, four of the second.
  template <typename Any>
  static void restore_order(Any& low, Any& high) {
    const Ints first = {0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23};
    const Any a = low, b = high;
    low = __builtin_shuffle(a, b, first);
    high = __builtin_shuffle(a, b, first + 8);
  }
  static void load_value_units(const BFloat16* row, int64_t stride, bool first, bool second,
                               int channels, Vector (&values)[2]) {
    interleave(first ? load(row, channels) : Vector{},
               second ? load(row + stride, channels) : Vector{}, values);
    restore_order(values[0], values[1]);
  }

 private:
  static void interleave(Vector a, Vector b, Vector (&values)[2]) {
    const auto x = bit_cast<__m512i>(a), y = bit_cast<__m512i>(b);
    values[0] = bit_cast<Vector>(_mm512_unpacklo_epi16(x, y));
    values[1] = bit_cast<Vector>(_mm512_unpackhi_epi16(x, y));
  }
};

#endif

}  // namespace
}  // namespace windlass
