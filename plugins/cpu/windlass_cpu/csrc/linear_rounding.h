// Symmetric rounding to small integers. Internal linkage: see linear_output.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear_output.h"
#include "linear_quantize.h"

namespace {

// The nearest integer within [-largest, largest], ties to even; -largest for a NaN. Adding
// 1.5 * 2^23 leaves the integer in the low bits, which is faster than asking for it.
inline int32_t round_within(float value, float largest) {
  value = value > -largest ? value : -largest;
  value = value < largest ? value : largest;
  value += 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits - 0x4b400000;
}

// What values are multiplied with to be counted in `scale`s; zero where that is not finite.
inline float inverse_of(float scale) {
  const float inverse = 1 / scale;
  return inverse <= 3.4e38f ? inverse : 0;
}

// The largest magnitude of bf16 numbers; NaN or infinity if one of them is. Without their sign,
// floats are ordered as integers are.
inline float bf16_magnitude(const uint16_t* values, int64_t count) {
  uint16_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t magnitude = values[i] & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return float_from_bf16(largest);
}

inline float float_magnitude(const float* values, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float result;
  std::memcpy(&result, &largest, sizeof result);
  return result;
}

inline void widen(const void* weights, bool is_float, int64_t count, float* values) {
  if (is_float) {
    std::memcpy(values, weights, count * sizeof *values);
  } else {
    const auto* bf16 = static_cast<const uint16_t*>(weights);
    for (int64_t i = 0; i < count; ++i) values[i] = float_from_bf16(bf16[i]);
  }
}

inline int32_t round_values(const float* values, int64_t count, float inverse, float largest,
                            int8_t* rounded) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = round_within(values[i] * inverse, largest);
    rounded[i] = static_cast<int8_t>(value);
    sum += value;
  }
  return sum;
}

constexpr windlass::Quantizer kQuantizer{widen, float_magnitude, round_values};

}  // namespace
