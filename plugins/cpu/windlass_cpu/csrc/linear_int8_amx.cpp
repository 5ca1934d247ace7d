// int8 products with AMX.
#include "linear_int8_tiles.h"
#include "linear_tiles_amx.h"

namespace {

struct Int8Tiles : AmxTiles {
  template <int A, int B>
  static void multiply() {
    if constexpr (A == 0 && B == 0) _tile_dpbssd(0, 4, 6);
    else if constexpr (A == 0) _tile_dpbssd(1, 4, 7);
    else if constexpr (B == 0) _tile_dpbssd(2, 5, 6);
    else _tile_dpbssd(3, 5, 7);
  }
};

}  // namespace

const LinearKernel& windlass::int8_kernel_amx() {
  return tile_kernel_of<Int8TileFormat<Int8Tiles>>();
}
