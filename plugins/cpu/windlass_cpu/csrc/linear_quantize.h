// Rounding to small integers: weights at load, a channel or a group at a time; activations by row.
#pragma once

#include <cstdint>

namespace windlass {

// The loops of it, compiled for one instruction set.
struct Quantizer {
  // Rows of weights as fp32, from fp32 or bf16.
  void (*widen)(const void* weights, bool is_float, int64_t count, float* values);
  // The largest magnitude; infinity or NaN if one of the values is.
  float (*magnitude)(const float* values, int64_t count);
  // The same of bf16 numbers.
  float (*bf16_magnitude)(const uint16_t* values, int64_t count);
  // values * inverse, rounded and held within [low, high]; returns their sum.
  int32_t (*round)(const float* values, int64_t count, float inverse, float low, float high,
                   int8_t* rounded);
  // A group to int4; returns the scale as fp16.
  uint16_t (*round_int4_group)(const float* values, int64_t count, int8_t* rounded);
};

const Quantizer& quantizer_scalar();
const Quantizer& quantizer_avx2();

// The best one of this processor.
const Quantizer& quantizer();

}  // namespace windlass
