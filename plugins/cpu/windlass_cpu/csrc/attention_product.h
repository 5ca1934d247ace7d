// How attention multiplies: the operands of a product are vectors of 32-bit units.
//
// A unit is one float32, or, where the processor multiplies pairs of bfloat16 with a float32 sum,
// two bfloat16. A unit's numbers are neighbouring channels in Q K^T, neighbouring tokens in P V.
#pragma once

#include <type_traits>

#include "vector_bytes.h"

namespace windlass {
namespace {

// Channels that one load covers.
constexpr int kStepChannels = 2 * kLanes;

// Two vectors of 2 * kLanes numbers in their order.
template <typename T>
inline void load_ordered(const T* from, Floats (&floats)[2]) {
  floats[0] = load(from);
  floats[1] = load(from + kLanes);
}
template <typename T>
inline void load_ordered(const T* from, int count, Floats (&floats)[2]) {
  floats[0] = load(from, count < kLanes ? count : kLanes);
  floats[1] = load(from + kLanes, count < kLanes ? 0 : count - kLanes);
}

// The same in the order that is cheapest: of bfloat16 those at even and those at odd places.
template <typename T>
inline void load_two(const T* from, Floats (&floats)[2]) {
  load_ordered(from, floats);
}
template <typename T>
inline void load_two(const T* from, int count, Floats (&floats)[2]) {
  load_ordered(from, count, floats);
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
#if defined(__AVX512F__)
inline void load_two(const Float8* from, Floats (&floats)[2]) {
  typedef uint16_t Wide __attribute__((vector_size(64)));
  const __m256i bytes = load_bits<__m256i>(from);
  const __m512i widened = _mm512_maskz_cvtepi8_epi16(0xffffffff, bytes);
  const auto halves = bit_cast<__m512i>(to_float16(bit_cast<Wide>(widened)));
  floats[0] = _mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(&halves));
  floats[1] = _mm512_maskz_cvtph_ps(0xffff, _mm512_maskz_extracti64x4_epi64(0xff, halves, 1));
}
#endif

// Queries of T, keys and values as they are stored.
template <typename T, typename S = T>
struct FloatProduct {
  using Number = T;
  using Stored = S;
  using Weight = float;
  using Unit = float;
  using Vector = Floats;
  static constexpr int kNumbers = 1;  // of a unit
  static constexpr int kVectors = 2;  // of kStepChannels channels

  // Queries and keys, in an order of channels that is the same for both.
  template <typename... Count>
  static void load_query(const T* from, Vector (&units)[2], Count... count) {
    if constexpr (std::is_same<T, S>::value) {
      load_two(from, count..., units);
    } else {
      load_ordered(from, count..., units);
    }
  }
  static void load(const S* from, Vector (&units)[2]) { load_two(from, units); }
  static void load(const S* from, int count, Vector (&units)[2]) { load_two(from, count, units); }
  static Vector load_units(const Unit* from) { return windlass::load(from); }
  static Vector broadcast_unit(const void* from) { return broadcast(load_bits<float>(from)); }
  static Floats multiply_add(Vector a, Vector b, Floats sum) { return a * b + sum; }
  static void store_weights(Weight* to, Floats weights) { store(to, weights); }

  // Values of kStepChannels channels of one token, in the order that is cheapest to load.
  static void load_values(const S* row, int64_t, bool, Vector (&values)[2]) {
    load_two(row, values);
  }
  static void load_values(const S* row, int64_t, bool, Vector (&values)[2], int channels) {
    load_two(row, channels, values);
  }
  // Puts what products with such values gave in the order of channels.
  static void restore_order(Floats& a, Floats& b) {
    if constexpr (std::is_same<S, BFloat16>::value) interleave(a, b);
  }
  // Values in the order of channels, zeros for tokens that are left out.
  static void load_value_units(const S* row, int64_t, bool first, bool, int channels,
                               Vector (&values)[2]) {
    if (!first) return;
    if (channels == kStepChannels) {
      load_ordered(row, values);
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

template <typename S>
struct PairProduct {
  using Number = BFloat16;
  using Stored = S;
  using Weight = BFloat16;
  using Unit = uint32_t;
  using Vector = Words;
  static constexpr int kNumbers = 2;
  static constexpr int kVectors = 1;

  template <typename... Count>
  static void load_query(const BFloat16* from, Vector (&units)[1], Count... count) {
    units[0] = load_row(from, count...);
  }
  static void load(const S* from, Vector (&units)[1]) { units[0] = load_row(from); }
  static void load(const S* from, int count, Vector (&units)[1]) {
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
  static void load_values(const S* row, int64_t stride, bool both, Vector (&values)[2]) {
    interleave(load_row(row), both ? load_row(row + stride) : Vector{}, values);
  }
  static void load_values(const S* row, int64_t stride, bool both, Vector (&values)[2],
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
  static void load_value_units(const S* row, int64_t stride, bool first, bool second,
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
  // A byte's number has fewer bits than a bfloat16.
  template <typename Byte, typename... Count>
  static Vector load_row(const Byte* from, Count... count) {
    Floats floats[2];
    load_two(from, count..., floats);
    return bit_cast<Vector>(_mm512_cvtne2ps_pbh(floats[1], floats[0]));
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
