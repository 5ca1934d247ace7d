// bf16 products with the dot-product instruction: two inputs of 16 channels at a time.
//
// Fourteen rows fill the registers: 28 sums, two vectors of weights, one of activations.
#include <immintrin.h>

#include "linear_bf16_tile.h"

namespace {

struct Avx512Bf16 {
  static constexpr int kRows = 14, kVectors = 2;
  using Accumulator = __m512;
  using Weights = __m512i;
  using Pair = uint32_t;
  using Activation = __m512i;

  static Accumulator zero() { return _mm512_setzero_ps(); }
  static Weights load(const uint16_t* pairs) { return _mm512_load_si512(pairs); }
  static Activation broadcast(const Pair* pair) {
    return _mm512_set1_epi32(static_cast<int>(*pair));
  }
  static void multiply(Accumulator& sum, const Weights& w, const Activation& a) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)a);
  }
  static void add(Accumulator& sum, Accumulator other) { sum = _mm512_add_ps(sum, other); }
  static void store(float* out, Accumulator sum) { _mm512_store_ps(out, sum); }
  static Pair pair(uint16_t even, uint16_t odd) {
    return static_cast<uint32_t>(even) | static_cast<uint32_t>(odd) << 16;
  }
};

}  // namespace

const Bf16Kernel& windlass::bf16_kernel_avx512bf16() { return bf16_kernel<Avx512Bf16>(); }
