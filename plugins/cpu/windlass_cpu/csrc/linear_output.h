// The end of a tile: fp32 sums plus bias, written as bf16 or fp32.
//
// Included by files compiled for different instruction sets: everything has internal linkage, or
// the linker could hand one level's code to another.
#pragma once

#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "linear.h"

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
inline void write_row(const float* sums, const float* bias, int columns, bool is_float,
                      void* output) {
  if (is_float) {
    float* out = static_cast<float*>(output);
    for (int c = 0; c < columns; ++c) out[c] = sums[c] + bias[c];
  } else {
    uint16_t* out = static_cast<uint16_t*>(output);
    for (int c = 0; c < columns; ++c) out[c] = bf16_from_float(sums[c] + bias[c]);
  }
}

// A row of a whole panel, where a constant count lets the compiler use whole vectors.
inline void write_panel_row(const float* sums, const float* bias, bool is_float, void* output) {
  constexpr int kColumns = windlass::kPanelColumns;
#if defined(__AVX512BF16__)
  // The processor's own rounding takes the smallest numbers as zero, as its bf16 products do.
  if (!is_float) {
    const __m512 low = _mm512_load_ps(sums) + _mm512_load_ps(bias);
    const __m512 high = _mm512_load_ps(sums + 16) + _mm512_load_ps(bias + 16);
    const auto rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(output, rounded);
    return;
  }
#endif
  write_row(sums, bias, kColumns, is_float, output);
}

template <int Most>
void write_tile(const float (&sums)[Most][windlass::kPanelColumns],
                const windlass::TileOutput& to, int rows = Most) {
  constexpr int kColumns = windlass::kPanelColumns;
  alignas(64) float bias[kColumns] = {};
  if (to.bias) {
    for (int c = 0; c < to.columns; ++c) bias[c] = float_from_bf16(to.bias[c]);
  }
  char* out = static_cast<char*>(to.output);
  const int64_t step = to.stride * (to.is_float ? sizeof(float) : sizeof(uint16_t));
  for (int r = 0; r < rows; ++r) {
    if (to.columns == kColumns) write_panel_row(sums[r], bias, to.is_float, out + r * step);
    else write_row(sums[r], bias, to.columns, to.is_float, out + r * step);
  }
}

}  // namespace
