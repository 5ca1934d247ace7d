// int4 products on any processor: four channels at a time, widened to 32 bits.
#include "linear_half.h"
#include "linear_int4_tile.h"

namespace {

typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Bits4 __attribute__((vector_size(16)));
typedef float Float4 __attribute__((vector_size(16)));

struct Scalar {
  static constexpr int kRows = 2, kVectors = 8;
  using Sum = Int4;
  using Float = Float4;

  static Float zero() { return Float4{0, 0, 0, 0}; }
  static Sum set(int32_t value) { return Int4{value, value, value, value}; }

  template <int Count>
  static void add_block(const char* weights, const Octet* octets, Sum (&sums)[Count]) {
    for (int s = 0; s < kInt4Group / kInt4SliceInputs; ++s) {
      Bits4 bits;
      std::memcpy(&bits, weights + s * kSliceBytes, sizeof bits);
      for (int i = 0; i < 4; ++i) {
        const Int4 low = reinterpret_cast<Int4>((bits >> (8 * i)) & 15u);
        const Int4 high = reinterpret_cast<Int4>((bits >> (8 * i + 4)) & 15u);
        for (int r = 0; r < Count; ++r) {
          const int8_t* x = octets[s * Count + r].values;
          sums[r] += low * int32_t{x[i]} + high * int32_t{x[4 + i]};
        }
      }
    }
  }

  static Float scales(const char* halves) {
    uint16_t bits[4];
    std::memcpy(bits, halves, sizeof bits);
    return Float4{float_from_half(bits[0]), float_from_half(bits[1]), float_from_half(bits[2]),
                  float_from_half(bits[3])};
  }
  static void add_scaled(Float& sum, Sum group, Float scales, float row_scale) {
    sum += __builtin_convertvector(group, Float4) * (scales * row_scale);
  }
  static void store(float* out, Float sum) { std::memcpy(out, &sum, sizeof sum); }
};

}  // namespace

const LinearKernel& windlass::int4_kernel_scalar() { return int4_kernel<Scalar>(); }
