// The end of a tile: fp32 sums plus bias, written as bf16 or fp32.
//
// Included by files compiled for different instruction sets: everything has internal linkage, or
// the linker could hand one level's code to another.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline float float_from_bf16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Rounds to nearest even; a NaN stays one.
inline uint16_t bf16_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const uint32_t quiet = bits | 0x00400000;
  return static_cast<uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded) >> 16);
}

// Writes `columns` sums of one row.
inline void write_row(const float* sums, const float* bias, int columns, bool float_output,
                      void* output) {
  if (float_output) {
    float* out = static_cast<float*>(output);
    for (int c = 0; c < columns; ++c) out[c] = sums[c] + bias[c];
  } else {
    uint16_t* out = static_cast<uint16_t*>(output);
    for (int c = 0; c < columns; ++c) out[c] = bf16_from_float(sums[c] + bias[c]);
  }
}

// Writes `rows` rows of `sums` [rows][Columns]; `bias` is bf16 or null.
template <int Columns>
void write_tile(const float* sums, int rows, int columns, const uint16_t* bias, bool float_output,
                void* output, int64_t output_stride) {
  float added[Columns] = {};
  if (bias) {
    for (int c = 0; c < columns; ++c) added[c] = float_from_bf16(bias[c]);
  }
  char* out = static_cast<char*>(output);
  const int64_t step = output_stride * (float_output ? sizeof(float) : sizeof(uint16_t));
  for (int r = 0; r < rows; ++r) {
    write_row(sums + r * Columns, added, columns == Columns ? Columns : columns, float_output,
              out + r * step);
  }
}

}  // namespace
