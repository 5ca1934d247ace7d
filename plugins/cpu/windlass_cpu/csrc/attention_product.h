// How attention multiplies: the operands of a product are vectors of 32-bit units.
//
// A unit is one float32, or, where the processor multiplies pairs of bfloat16 with a float32 sum,
// two bfloat16. A unit's numbers are neighbouring channels in Q K^T, neighbouring tokens in P V.
#pragma once

#include <type_traits>

#include "vector.h"

namespace windlass {
namespace {

// Channels that one load covers.
constexpr int kStepChannels = 2 * kLanes;

// Two vectors of 2 * kLanes numbers: in their order, or, of bfloat16, which costs half as much,
// those at even and those at odd places.
template <typename T>
inline void load_two(const T* from, Floats (&floats)[2]) {
  floats[0] = load(from);
  floats[1] = load(from + kLanes);
}
template <typename T>
inline void load_two(const T* from, int count, Floats (&floats)[2]) {
  floats[0] = load(from, count < kLanes ? count : kLanes);
  floats[1] = load(from + kLanes, count < kLanes ? 0 : count - kLanes);
}
inline void split_pairs(Words pairs, Floats (&floats)[2]) {
  floats[0] = bit_cast<Floats>(pairs << 16);
  floats[1] = bit_cast<Floats>(pairs & 0xffff0000u);
}
inline void load_two(const BFloat16* from, Floats (&floats)[2]) {
  split_pairs(load_bits<Words>(from), floats);
}
inline void load_two(const BFloat16* from, int count, Floats (&floats)[2]) {
  Words pairs{};
  std::memcpy(&pairs, from, count * sizeof(BFloat16));
  split_pairs(pairs, floats);
}

template <typename T>
struct FloatProduct {
  using Number = T;
  using Weight = float;
  using Unit = float;
  using Vector = Floats;
  static constexpr int kNumbers = 1;  // of a unit
  static constexpr int kVectors = 2;  // of kStepChannels channels

  // Queries and keys, in an order of channels that is the same for both.
  static void load(const T* from, Vector (&units)[2]) { load_two(from, units); }
  static void load(const T* from, int count, Vector (&units)[2]) { load_two(from, count, units); }
  static Vector load_units(const Unit* from) { return windlass::load(from); }
  static Vector broadcast_unit(const void* from) { return broadcast(load_bits<float>(from)); }
  static Floats multiply_add(Vector a, Vector b, Floats sum) { return a * b + sum; }
  static void store_weights(Weight* to, Floats weights) { store(to, weights); }

  // Values of kStepChannels channels of one token, in the order that is cheapest to load.
  static void load_values(const T* row, int64_t, bool, Vector (&values)[2]) {
    load_two(row, values);
  }
  static void load_values(const T* row, int64_t, bool, Vector (&values)[2], int channels) {
    load_two(row, channels, values);
  }
  // Puts what products with such values gave in the order of channels.
  static void restore_order(Floats& a, Floats& b) {
    if constexpr (std::is_same<T, BFloat16>::value) interleave(a, b);
  }
  // Values in the order of channels, zeros for tokens that are left out.
  static void load_value_units(const T* row, int64_t, bool first, bool, int channels,
                               Vector (&values)[2]) {
    if (!first) return;
    if (channels == kStepChannels) {
      values[0] = windlass::load(row);
      values[1] = windlass::load(row + kLanes);
    } else {
      load_two(row, channels, values);
      restore_order(values[0], values[1]);
    }
  }

 private:
  static void interleave(Floats& even, Floats& odd) {
    Ints first;
    for (int i = 0; i < kLanes; ++i) first[i] = i / 2 + (i % 2) * kLanes;
    const Floats a = even, b = odd;
    even = __builtin_shuffle(a, b, first);
    odd = __builtin_shuffle(a, b, first + kLanes / 2);
  }
};

#if defined(__AVX512BF16__)

struct PairProduct {
  using Number = BFloat16;
  using Weight = BFloat16;
  using Unit = uint32_t;
  using Vector = Words;
  static constexpr int kNumbers = 2;
  static constexpr int kVectors = 1;

  static void load(const BFloat16* from, Vector (&units)[1]) { units[0] = load_row(from); }
  static void load(const BFloat16* from, int count, Vector (&units)[1]) {
    units[0] = load_row(from, count);
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
    interleave(load_row(row), both ? load_row(row + stride) : Vector{}, values);
  }
  static void load_values(const BFloat16* row, int64_t stride, bool both, Vector (&values)[2],
                          int channels) {
    interleave(load_row(row, channels), both ? load_row(row + stride, channels) : Vector{}, values);
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
    interleave(first ? load_row(row, channels) : Vector{},
               second ? load_row(row + stride, channels) : Vector{}, values);
    restore_order(values[0], values[1]);
  }

 private:
  static Vector load_row(const BFloat16* from) { return load_bits<Vector>(from); }
  static Vector load_row(const BFloat16* from, int count) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
    return bit_cast<Vector>(_mm512_maskz_loadu_epi16(mask, from));
  }
  static void interleave(Vector a, Vector b, Vector (&values)[2]) {
    const auto x = bit_cast<__m512i>(a), y = bit_cast<__m512i>(b);
    values[0] = bit_cast<Vector>(_mm512_unpacklo_epi16(x, y));
    values[1] = bit_cast<Vector>(_mm512_unpackhi_epi16(x, y));
  }
};

#endif

}  // namespace
}  // namespace windlass
