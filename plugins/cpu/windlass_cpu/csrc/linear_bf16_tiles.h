// The bf16 product over the Tiles of linear_tiles.h.
#pragma once

#include "linear_bf16.h"
#include "linear_output.h"
#include "linear_tiles.h"

namespace {

template <class SomeTiles>
struct Bf16TileFormat {
  using Tiles = SomeTiles;
  static constexpr int64_t kStepBytes = kTileStepBytes;
  static constexpr int kStepInputs = 2 * kSlicesPerStep;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    const int64_t steps = windlass::divide_up(rows.inputs, kStepInputs);
    const int64_t filled = rows.inputs / kStepInputs, whole = filled < end ? filled : end;
    for (int r = 0; r < count; ++r) {
      const uint16_t* x = rows.x + r * rows.stride;
      TileRow to(packed, steps, r, count, begin);
      int64_t step = begin;
      for (; step < whole; ++step, to.next())
        std::memcpy(to.at(), x + step * kStepInputs, kTileStepBytes);
      if (step < end) {
        uint16_t part[kStepInputs] = {};
        std::memcpy(part, x + step * kStepInputs, rows.inputs % kStepInputs * sizeof *x);
        std::memcpy(to.at(), part, sizeof part);
      }
    }
  }

  static void tile(int rows, const TileInput& input, const TileOutput& output) {
    alignas(64) float sums[kMostTileRows][kPanelColumns];
    accumulate_tiles<Tiles>(input, rows, sums);
    write_tile(sums, output, rows);
  }
};

}  // namespace
