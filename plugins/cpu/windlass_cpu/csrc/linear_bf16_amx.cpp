// bf16 products with AMX, which takes numbers too small for a full mantissa (below 2^-126) as zero,
// and makes zero of sums that small.
#include "linear_bf16_tiles.h"
#include "linear_tiles_amx.h"

namespace {

struct Bf16Tiles : AmxTiles {
  template <int A, int B>
  static void multiply() {
    if constexpr (A == 0 && B == 0) _tile_dpbf16ps(0, 4, 6);
    else if constexpr (A == 0) _tile_dpbf16ps(1, 4, 7);
    else if constexpr (B == 0) _tile_dpbf16ps(2, 5, 6);
    else _tile_dpbf16ps(3, 5, 7);
  }
};

}  // namespace

const LinearKernel& windlass::bf16_kernel_amx() {
  return tile_kernel_of<Bf16TileFormat<Bf16Tiles>>();
}
