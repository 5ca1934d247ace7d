// The Tiles of linear_tiles.h in plain C++, to test the loops over them on any processor.
#include "linear_bf16_tiles.h"
#include "linear_int4_tiles.h"
#include "linear_int8_tiles.h"

namespace {

// One thread's registers.
struct Registers {
  int rows = 0, steps = 0;
  alignas(64) char sums[2][2][kTileRows][kTileBytes];
  alignas(64) char activations[2][kTileRows][kTileBytes];
  alignas(64) char weights[2][kTileRows][kTileBytes];
};

struct EmulatedTiles {
  static Registers& registers() {
    thread_local Registers all;
    return all;
  }
  static void configure(int rows, int steps) {
    registers().rows = rows;
    registers().steps = steps;
  }
  static void release() { configure(0, 0); }

  template <int A, int B>
  static void zero() {
    std::memset(registers().sums[A][B], 0, sizeof registers().sums[A][B]);
  }
  template <int A>
  static void load_activations(const char* from, int64_t stride) {
    for (int r = 0; r < registers().rows; ++r)
      std::memcpy(registers().activations[A][r], from + r * stride,
                  registers().steps * kTileStepBytes);
  }
  template <int B>
  static void load_weights(const char* from, int64_t stride) {
    for (int slice = 0; slice < registers().steps * kSlicesPerStep; ++slice)
      std::memcpy(registers().weights[B][slice], from + slice * stride, kTileBytes);
  }
  template <int A, int B>
  static void store(void* to, int64_t stride) {
    for (int r = 0; r < registers().rows; ++r)
      std::memcpy(static_cast<char*>(to) + r * stride, registers().sums[A][B][r], kTileBytes);
  }
};

// Adds, for every row and channel, the products of `Count` inputs of each slice.
template <class Sum, class Number, int Count, class Widen>
void multiply_registers(Registers& all, int a, int b, const Widen& widen) {
  for (int r = 0; r < all.rows; ++r)
    for (int slice = 0; slice < all.steps * kSlicesPerStep; ++slice) {
      Number x[Count], w[kTileRows][Count];
      Sum sums[kTileRows];
      std::memcpy(x, all.activations[a][r] + slice * sizeof x, sizeof x);
      std::memcpy(w, all.weights[b][slice], sizeof w);
      std::memcpy(sums, all.sums[a][b][r], sizeof sums);
      for (int c = 0; c < kTileRows; ++c)
        for (int i = 0; i < Count; ++i) sums[c] += widen(x[i]) * widen(w[c][i]);
      std::memcpy(all.sums[a][b][r], sums, sizeof sums);
    }
}

struct Bf16Tiles : EmulatedTiles {
  template <int A, int B>
  static void multiply() {
    multiply_registers<float, uint16_t, 2>(registers(), A, B, float_from_bf16);
  }
};

struct Int8Tiles : EmulatedTiles {
  template <int A, int B>
  static void multiply() {
    multiply_registers<int32_t, int8_t, 4>(registers(), A, B,
                                           [](int8_t value) { return int32_t{value}; });
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_emulated() {
  return tile_kernel_of<Bf16TileFormat<Bf16Tiles>>();
}

const LinearKernel& windlass::int8_kernel_emulated() {
  return tile_kernel_of<Int8TileFormat<Int8Tiles>>();
}

const LinearKernel& windlass::int4_kernel_emulated() {
  return tile_kernel_of<Int4TileFormat<Int8Tiles>>();
}
