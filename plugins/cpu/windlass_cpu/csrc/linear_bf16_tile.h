// The bf16 product over an Arch as linear_accumulate.h describes it, whose Packed is a pair of
// activations: Arch::pair makes one.
#pragma once

#include "linear_accumulate.h"
#include "linear_bf16.h"
#include "linear_output.h"

namespace {

template <class Arch>
struct Bf16Format {
  using Pair = typename Arch::Packed;
  static constexpr int kRows = Arch::kRows;
  static constexpr int64_t kStepBytes = kSlicesPerStep * sizeof(Pair);

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    auto* out = reinterpret_cast<Pair*>(packed);
    const int64_t first = begin * kSlicesPerStep, last = end * kSlicesPerStep;
    const int64_t whole = rows.inputs / 2 < last ? rows.inputs / 2 : last;
    for (int r = 0; r < count; ++r) {
      const uint16_t* x = rows.x + r * rows.stride;
      int64_t i = first;
      for (; i < whole; ++i) out[i * count + r] = Arch::pair(x[2 * i], x[2 * i + 1]);
      for (; i < last; ++i)
        out[i * count + r] = Arch::pair(2 * i < rows.inputs ? x[2 * i] : uint16_t{0}, uint16_t{0});
    }
  }

  template <int Count>
  static void tile(const TileInput& input, const TileOutput& output) {
    alignas(64) float sums[Count][kPanelColumns];
    accumulate<Arch>(input, sums);
    write_tile(sums, output);
  }
};

}  // namespace
