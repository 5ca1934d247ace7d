// int8 products on any processor.
#include "linear_int8_tile.h"

namespace {

typedef int32_t Int4 __attribute__((vector_size(16)));

struct Shorts {
  int16_t values[4];
};

// Four channels at a time, widened to 32 bits.
struct Scalar {
  static constexpr int kRows = 2, kVectors = 8, kOffset = 0;
  using Sum = Int4;
  using Result = int32_t;
  using Packed = Shorts;
  using Activation = Shorts;
  struct Weights {
    Int4 inputs[4];
  };

  static Sum zero() { return Int4{0, 0, 0, 0}; }
  static Weights load(const char* quads) {
    Int4 bits;
    std::memcpy(&bits, quads, sizeof bits);
    return {{(bits << 24) >> 24, (bits << 16) >> 24, (bits << 8) >> 24, bits >> 24}};
  }
  static Activation broadcast(const Packed* quad) { return *quad; }
  static void multiply(Sum& sum, const Weights& w, const Activation& a) {
    for (int i = 0; i < 4; ++i) sum += w.inputs[i] * a.values[i];
  }
  static void add(Sum& sum, Sum other) { sum += other; }
  static void store(int32_t* out, Sum sum) { std::memcpy(out, &sum, sizeof sum); }
  static Packed quad(const int8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
};

}  // namespace

const LinearKernel& windlass::int8_kernel_scalar() { return kernel_of<Int8Format<Scalar>>(); }
