// int8 products with AVX2: weights are widened to 16 bits, whose products add up exactly.
#include <immintrin.h>

#include "linear_int8_tile.h"

namespace {

typedef int16_t Shorts16 __attribute__((vector_size(32), may_alias));

// Inputs 0 and 2, then 1 and 3, of one row as 16-bit numbers.
struct WideQuad {
  int16_t even[2], odd[2];
};

struct Avx2 {
  static constexpr int kRows = 2, kVectors = 4, kOffset = 0;
  using Sum = __m256i;
  using Result = int32_t;
  using Packed = WideQuad;
  struct Weights {
    __m256i even, odd;
  };
  struct Activation {
    __m256i even, odd;
  };

  static Sum zero() { return _mm256_setzero_si256(); }
  static Weights load(const char* quads) {
    const auto bytes = *reinterpret_cast<const Shorts16*>(quads);
    return {reinterpret_cast<__m256i>((bytes << 8) >> 8), reinterpret_cast<__m256i>(bytes >> 8)};
  }
  static Activation broadcast(const Packed* quad) {
    int even, odd;
    std::memcpy(&even, quad->even, sizeof even);
    std::memcpy(&odd, quad->odd, sizeof odd);
    return {_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
  }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w.even, a.even));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w.odd, a.odd));
  }
  static void add(Sum& sum, Sum other) { sum = _mm256_add_epi32(sum, other); }
  static void store(int32_t* out, Sum sum) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), sum);
  }
  static Packed quad(const int8_t* x) { return {{x[0], x[2]}, {x[1], x[3]}}; }
};

}  // namespace

const LinearKernel& windlass::int8_kernel_avx2() { return kernel_of<Int8Format<Avx2>>(); }
