// bf16 products with the dot-product instruction: two inputs of 16 channels at a time.
//
// Twelve rows leave registers to load into: 24 sums, two vectors of weights, activations.
#include <immintrin.h>

#include "linear_bf16_tile.h"

namespace {

struct Avx512Bf16 {
  static constexpr int kRows = 12, kVectors = 2;
  using Sum = __m512;
  using Weights = __m512i;
  using Result = float;
  using Packed = uint32_t;
  using Activation = __m512i;

  static Sum zero() { return _mm512_setzero_ps(); }
  static Weights load(const char* pairs) { return _mm512_load_si512(pairs); }
  static Activation broadcast(const Packed* pair) {
    return _mm512_set1_epi32(static_cast<int>(*pair));
  }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)a);
  }
  static void add(Sum& sum, Sum other) { sum = _mm512_add_ps(sum, other); }
  static void store(float* out, Sum sum) { _mm512_store_ps(out, sum); }
  static Packed pair(uint16_t even, uint16_t odd) {
    return static_cast<uint32_t>(even) | static_cast<uint32_t>(odd) << 16;
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_avx512bf16() {
  return kernel_of<Bf16Format<Avx512Bf16>>();
}
