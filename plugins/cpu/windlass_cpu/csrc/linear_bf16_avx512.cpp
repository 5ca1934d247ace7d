// bf16 products with AVX-512: a pair of weights becomes two floats by a shift and a mask.
//
// Twelve rows fill the registers: 24 sums, four vectors of weights, two of activations.
#include <immintrin.h>

#include "linear_bf16_tile.h"

namespace {

typedef uint32_t Bits16 __attribute__((vector_size(64)));

struct FloatPair {
  float even, odd;
};

struct Avx512 {
  static constexpr int kRows = 12, kVectors = 2;
  using Sum = __m512;
  struct Weights {
    __m512 even, odd;
  };
  using Result = float;
  using Packed = FloatPair;
  struct Activation {
    __m512 even, odd;
  };

  static Sum zero() { return _mm512_setzero_ps(); }
  static Weights load(const char* pairs) {
    const auto bits = reinterpret_cast<Bits16>(_mm512_load_si512(pairs));
    return {reinterpret_cast<__m512>(bits << 16), reinterpret_cast<__m512>(bits & 0xffff0000u)};
  }
  static Activation broadcast(const Packed* pair) {
    return {_mm512_set1_ps(pair->even), _mm512_set1_ps(pair->odd)};
  }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum = _mm512_fmadd_ps(w.even, a.even, sum);
    sum = _mm512_fmadd_ps(w.odd, a.odd, sum);
  }
  static void add(Sum& sum, Sum other) { sum = _mm512_add_ps(sum, other); }
  static void store(float* out, Sum sum) { _mm512_store_ps(out, sum); }
  static Packed pair(uint16_t even, uint16_t odd) {
    return {float_from_bf16(even), float_from_bf16(odd)};
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_avx512() { return kernel_of<Bf16Format<Avx512>>(); }
