// What both AVX-512 levels of the int4 product share. Internal linkage: see linear_output.h.
//
// The zeroing forms of intrinsics, with nothing masked, spare GCC 12 a false warning.
#pragma once

#include <immintrin.h>

#include "linear_int4_tile.h"

namespace {

struct Vectors512 {
  static constexpr int kRows = 8, kVectors = 2;
  using Sum = __m512i;
  using Float = __m512;

  static Float zero() { return _mm512_setzero_ps(); }
  static Sum set(int32_t value) { return _mm512_set1_epi32(value); }
  static Float scales(const char* halves) {
    const auto* vector = reinterpret_cast<const __m256i*>(halves);
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_load_si256(vector));
  }
  static void add_scaled(Float& sum, Sum group, Float scales, float row_scale) {
    sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, group),
                          _mm512_mul_ps(scales, _mm512_set1_ps(row_scale)), sum);
  }
  static void store(float* out, Float sum) { _mm512_store_ps(out, sum); }
};

}  // namespace
