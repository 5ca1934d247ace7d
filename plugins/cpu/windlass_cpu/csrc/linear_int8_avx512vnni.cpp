// int8 products with the VNNI dot product, which takes unsigned activations: 128 is added to them,
// and 128 times the channel's sum of weights comes off the result.
//
// Twelve rows leave registers to load into: 24 sums, two vectors of weights, activations.
#include <immintrin.h>

#include "linear_int8_tile.h"

namespace {

struct Avx512Vnni {
  static constexpr int kRows = 12, kVectors = 2, kOffset = 128;
  using Sum = __m512i;
  using Result = int32_t;
  using Packed = uint32_t;
  using Weights = __m512i;
  using Activation = __m512i;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Weights load(const char* quads) { return _mm512_load_si512(quads); }
  static Activation broadcast(const Packed* quad) {
    return _mm512_set1_epi32(static_cast<int>(*quad));
  }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum = _mm512_dpbusd_epi32(sum, a, w);
  }
  static void add(Sum& sum, Sum other) { sum = _mm512_add_epi32(sum, other); }
  static void store(int32_t* out, Sum sum) { _mm512_store_si512(out, sum); }
  static Packed quad(const int8_t* x) {
    uint32_t bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return bytes ^ 0x80808080u;
  }
};

}  // namespace

const LinearKernel& windlass::int8_kernel_avx512vnni() {
  return kernel_of<Int8Format<Avx512Vnni>>();
}
