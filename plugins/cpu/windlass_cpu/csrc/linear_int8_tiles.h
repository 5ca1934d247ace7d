// The int8 product over the Tiles of linear_tiles.h: both sides are signed, so that nothing is
// added to activations.
#pragma once

#include "linear_int8_tile.h"
#include "linear_tiles.h"

namespace {

template <class SomeTiles>
struct Int8TileFormat {
  using Tiles = SomeTiles;
  static constexpr int64_t kStepBytes = kTileStepBytes;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    const int64_t steps = windlass::divide_up(rows.inputs, kInt8StepInputs);
    for (int r = 0; r < count; ++r) {
      TileRow to(packed, steps, r, count, begin);
      quantize_row(rows.x + r * rows.stride, rows.inputs, begin, end, rows.scales[r],
                   [&](int64_t, const int8_t* values) {
                     std::memcpy(to.at(), values, kInt8StepInputs);
                     to.next();
                   });
    }
  }

  static void tile(int rows, const TileInput& input, const TileOutput& output) {
    alignas(64) int32_t sums[kMostTileRows][kPanelColumns];
    accumulate_tiles<Tiles>(input, rows, sums);
    write_scaled(sums, 0, input, output, rows);
  }
};

}  // namespace
