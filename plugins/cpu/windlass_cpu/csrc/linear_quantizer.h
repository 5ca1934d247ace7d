// The loops of a Quantizer. Internal linkage: see linear_output.h.
#pragma once

#include "linear_half.h"
#include "linear_int4.h"
#include "linear_quantize.h"
#include "linear_rounding.h"

namespace {

inline void widen(const void* weights, bool is_float, int64_t count, float* values) {
  if (is_float) {
    std::memcpy(values, weights, count * sizeof *values);
  } else {
    const auto* bf16 = static_cast<const uint16_t*>(weights);
    for (int64_t i = 0; i < count; ++i) values[i] = float_from_bf16(bf16[i]);
  }
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

// The squared error of a group rounded to int4 with this scale.
inline float int4_error(const float* values, int64_t count, float scale, float inverse) {
  constexpr int kLanes = 16;  // independent sums, which the compiler makes vectors of
  float sums[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      const int32_t rounded =
          round_within(value * inverse, windlass::kInt4Low, windlass::kInt4High);
      const float error = value - static_cast<float>(rounded) * scale;
      sums[lane] += error * error;
    }
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

// The largest magnitude becomes -8, or a little beyond where that leaves a smaller squared error:
// the other weights are then rounded more finely.
inline uint16_t round_int4_group(const float* values, int64_t count, int8_t* rounded) {
  constexpr float kShrink[] = {1.0f, 0.95f, 0.9f, 0.85f};
  const float magnitude = float_magnitude(values, count);
  float low = 0;
  for (int64_t i = 0; i < count; ++i) low = values[i] < low ? values[i] : low;
  const float largest = low == -magnitude ? low : magnitude;
  uint16_t best = 0;
  float best_inverse = 0, least = -1;
  for (const float shrink : kShrink) {
    const uint16_t half = half_from_float(largest * shrink / windlass::kInt4Low);
    const float scale = float_from_half(half);
    const float inverse = scale < 0 ? -inverse_of(-scale) : inverse_of(scale);
    const float error = int4_error(values, count, scale, inverse);
    if (least < 0 || error < least) {
      least = error;
      best = half;
      best_inverse = inverse;
    }
  }
  round_values(values, count, best_inverse, windlass::kInt4Low, windlass::kInt4High, rounded);
  return best;
}

constexpr windlass::Quantizer kQuantizer{widen, float_magnitude, bf16_magnitude, round_values,
                                         round_int4_group};

}  // namespace
