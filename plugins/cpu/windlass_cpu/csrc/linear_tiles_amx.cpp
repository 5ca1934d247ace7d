// Products with AMX. Its bf16 products take numbers too small for a full mantissa (below 2^-126) as
// zero, and make zero of sums that small.
#include "linear_tiles_amx.h"

#include "linear_bf16_tiles.h"
#include "linear_int4_tiles.h"
#include "linear_int8_tiles.h"

const LinearKernel& windlass::bf16_kernel_amx() {
  return tile_kernel_of<Bf16TileFormat<AmxBf16Tiles>>();
}

const LinearKernel& windlass::int8_kernel_amx() {
  return tile_kernel_of<Int8TileFormat<AmxInt8Tiles>>();
}

const LinearKernel& windlass::int4_kernel_amx() {
  return tile_kernel_of<Int4TileFormat<AmxInt8Tiles>>();
}
