// int4 products with the VNNI dot product, whose unsigned side takes the weights.
#include "linear_int4_vectors512.h"

namespace {

struct Avx512Vnni : Vectors512 {
  template <int Count>
  static void add_block(const char* weights, const Octet* octets, Sum (&sums)[Count]) {
    const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int s = 0; s < kInt4Group / kInt4SliceInputs; ++s) {
      const __m512i bytes = _mm512_load_si512(weights + s * kSliceBytes);
      const __m512i low = _mm512_and_si512(bytes, mask);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) {
        int quads[2];
        std::memcpy(quads, octets[s * Count + r].values, sizeof quads);
        sums[r] = _mm512_dpbusd_epi32(sums[r], low, _mm512_set1_epi32(quads[0]));
        sums[r] = _mm512_dpbusd_epi32(sums[r], high, _mm512_set1_epi32(quads[1]));
      }
    }
  }
};

}  // namespace

const LinearKernel& windlass::int4_kernel_avx512vnni() { return int4_kernel<Avx512Vnni>(); }
