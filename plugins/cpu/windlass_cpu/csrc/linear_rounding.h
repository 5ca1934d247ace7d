// Symmetric rounding to small integers. Internal linkage: see linear_output.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear_output.h"

namespace {

// The nearest integer within [low, high], ties to even; `low` for a NaN. Adding
// 1.5 * 2^23 leaves the integer in the low bits, which is faster than asking for it.
inline int32_t round_within(float value, float low, float high) {
  value = value > low ? value : low;
  value = value < high ? value : high;
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

inline int32_t round_values(const float* values, int64_t count, float inverse, float low,
                            float high, int8_t* rounded) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = round_within(values[i] * inverse, low, high);
    rounded[i] = static_cast<int8_t>(value);
    sum += value;
  }
  return sum;
}

}  // namespace
