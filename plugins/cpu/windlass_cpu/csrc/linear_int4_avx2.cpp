// int4 products with AVX2: halves times activations in 16 bits, which hold a block's sums exactly.
#include <immintrin.h>

#include "linear_int4_tile.h"

namespace {

struct Avx2 {
  static constexpr int kRows = 4, kVectors = 4;
  using Sum = __m256i;
  using Float = __m256;

  static Float zero() { return _mm256_setzero_ps(); }
  static Sum set(int32_t value) { return _mm256_set1_epi32(value); }

  template <int Count>
  static void add_block(const char* weights, const Octet* octets, Sum (&sums)[Count]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i block[Count];
#pragma GCC unroll 4
    for (int r = 0; r < Count; ++r) block[r] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int s = 0; s < kInt4Group / kInt4SliceInputs; ++s) {
      const auto* at = reinterpret_cast<const __m256i*>(weights + s * kSliceBytes);
      const __m256i bytes = _mm256_load_si256(at);
      const __m256i low = _mm256_and_si256(bytes, mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
#pragma GCC unroll 4
      for (int r = 0; r < Count; ++r) {
        int quads[2];
        std::memcpy(quads, octets[s * Count + r].values, sizeof quads);
        const __m256i a = _mm256_maddubs_epi16(low, _mm256_set1_epi32(quads[0]));
        const __m256i b = _mm256_maddubs_epi16(high, _mm256_set1_epi32(quads[1]));
        block[r] = _mm256_add_epi16(block[r], _mm256_add_epi16(a, b));
      }
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int r = 0; r < Count; ++r)
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(block[r], ones));
  }

  static Float scales(const char* halves) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves)));
  }
  static void add_scaled(Float& sum, Sum group, Float scales, float row_scale) {
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(group),
                          _mm256_mul_ps(scales, _mm256_set1_ps(row_scale)), sum);
  }
  static void store(float* out, Float sum) { _mm256_store_ps(out, sum); }
};

}  // namespace

const LinearKernel& windlass::int4_kernel_avx2() { return int4_kernel<Avx2>(); }
