// bf16 products on any processor: vectors of four floats, as the compiler's default target has.
#include "linear_bf16_tile.h"

namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef uint32_t Bits4 __attribute__((vector_size(16)));

struct FloatPair {
  float even, odd;
};

struct Scalar {
  static constexpr int kRows = 2, kVectors = 8;
  using Sum = Float4;
  struct Weights {
    Float4 even, odd;
  };
  using Result = float;
  using Packed = FloatPair;
  using Activation = FloatPair;

  static Sum zero() { return Float4{0, 0, 0, 0}; }
  static Weights load(const char* pairs) {
    Bits4 bits;
    std::memcpy(&bits, pairs, sizeof bits);
    return {reinterpret_cast<Float4>(bits << 16), reinterpret_cast<Float4>(bits & 0xffff0000u)};
  }
  static Activation broadcast(const Packed* pair) { return *pair; }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    sum += w.even * a.even;
    sum += w.odd * a.odd;
  }
  static void add(Sum& sum, Sum other) { sum += other; }
  static void store(float* out, Sum sum) { std::memcpy(out, &sum, sizeof sum); }
  static Packed pair(uint16_t even, uint16_t odd) {
    return {float_from_bf16(even), float_from_bf16(odd)};
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_scalar() { return kernel_of<Bf16Format<Scalar>>(); }
