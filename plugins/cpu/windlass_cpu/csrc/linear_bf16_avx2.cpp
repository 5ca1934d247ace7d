// bf16 products with AVX2: a pair of weights becomes two floats by a shift and a mask.
//
// Two rows fill the registers: eight sums, four vectors of activations, two of weights.
#include <immintrin.h>

#include "linear_bf16_tile.h"

namespace {

typedef uint32_t Bits8 __attribute__((vector_size(32), may_alias));

struct FloatPair {
  float even, odd;
};

struct Avx2 {
  static constexpr int kRows = 2, kVectors = 4;
  using Sum = __m256;
  struct Weights {
    __m256 even, odd;
  };
  using Result = float;
  using Packed = FloatPair;
  struct Activation {
    __m256 even, odd;
  };

  static Sum zero() { return _mm256_setzero_ps(); }
  static Weights load(const char* pairs) {
    const auto bits = *reinterpret_cast<const Bits8*>(pairs);
    return {reinterpret_cast<__m256>(bits << 16), reinterpret_cast<__m256>(bits & 0xffff0000u)};
  }
  static Activation broadcast(const Packed* pair) {
    return {_mm256_broadcast_ss(&pair->even), _mm256_broadcast_ss(&pair->odd)};
  }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum = _mm256_fmadd_ps(w.even, a.even, sum);
    sum = _mm256_fmadd_ps(w.odd, a.odd, sum);
  }
  static void add(Sum& sum, Sum other) { sum = _mm256_add_ps(sum, other); }
  static void store(float* out, Sum sum) { _mm256_store_ps(out, sum); }
  static Packed pair(uint16_t even, uint16_t odd) {
    return {float_from_bf16(even), float_from_bf16(odd)};
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_avx2() { return kernel_of<Bf16Format<Avx2>>(); }
