// int4 products with AVX-512: halves times activations in 16 bits, which hold a block's sums
// exactly.
#include "linear_int4_vectors512.h"

namespace {

struct Avx512 : Vectors512 {
  template <int Count>
  static void add_block(const char* weights, const Octet* octets, Sum (&sums)[Count]) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i block[Count];
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) block[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int s = 0; s < kInt4Group / kInt4SliceInputs; ++s) {
      const __m512i bytes = _mm512_load_si512(weights + s * kSliceBytes);
      const __m512i low = _mm512_and_si512(bytes, mask);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) {
        int quads[2];
        std::memcpy(quads, octets[s * Count + r].values, sizeof quads);
        const __m512i a = _mm512_maddubs_epi16(low, _mm512_set1_epi32(quads[0]));
        const __m512i b = _mm512_maddubs_epi16(high, _mm512_set1_epi32(quads[1]));
        block[r] = _mm512_add_epi16(block[r], _mm512_add_epi16(a, b));
      }
    }
    const __m512i ones = _mm512_set1_epi16(1);
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r)
      sums[r] = _mm512_add_epi32(sums[r], _mm512_madd_epi16(block[r], ones));
  }
};

}  // namespace

const LinearKernel& windlass::int4_kernel_avx512() { return int4_kernel<Avx512>(); }
