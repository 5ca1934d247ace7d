// The int8 product over an Arch as linear_accumulate.h describes it, whose Packed is four
// activations of one row: Arch::quad makes one from int8. Arch::kOffset is what it adds to them.
#pragma once

#include "linear_accumulate.h"
#include "linear_int8.h"
#include "linear_rounding.h"

namespace {

using windlass::kInt8Largest;

template <class Arch>
struct Int8Format {
  using Quad = typename Arch::Packed;
  static constexpr int kRows = Arch::kRows;
  static constexpr int64_t kStepBytes = kSlicesPerStep * sizeof(Quad);
  static constexpr int kStepInputs = 4 * kSlicesPerStep;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    for (int r = 0; r < count; ++r) {
      const float inverse = inverse_of(rows.scales[r]);
      const uint16_t* x = rows.x + r * rows.stride;
      for (int64_t step = begin; step < end; ++step) {
        alignas(16) int8_t values[kStepInputs];
        quantize_step(x, rows.inputs, step * kStepInputs, inverse, values);
        auto* out = reinterpret_cast<Quad*>(packed) + step * kSlicesPerStep * count + r;
        for (int u = 0; u < kSlicesPerStep; ++u) out[u * count] = Arch::quad(values + 4 * u);
      }
    }
  }

  static void quantize_step(const uint16_t* x, int64_t inputs, int64_t first, float inverse,
                            int8_t* values) {
    uint16_t step[kStepInputs] = {};
    const int64_t left = inputs - first;
    if (left >= kStepInputs) std::memcpy(step, x + first, sizeof step);
    else std::memcpy(step, x + first, left * sizeof *x);
    for (int i = 0; i < kStepInputs; ++i)
      values[i] = static_cast<int8_t>(
          round_within(float_from_bf16(step[i]) * inverse, -kInt8Largest, kInt8Largest));
  }

  template <int Count>
  static void tile(const TileInput& input, const TileOutput& output) {
    alignas(64) int32_t sums[Count][kPanelColumns];
    accumulate<Arch>(input, sums);
    const auto& trailer = *reinterpret_cast<const windlass::Int8Trailer*>(
        input.weights + input.steps * kSlicesPerStep * kSliceBytes);
    alignas(64) float results[Count][kPanelColumns];
    for (int r = 0; r < Count; ++r) {
      const float row_scale = input.row_scales[r];
      for (int c = 0; c < kPanelColumns; ++c) {
        const int32_t sum = sums[r][c] - Arch::kOffset * trailer.weight_sums[c];
        results[r][c] = static_cast<float>(sum) * (row_scale * trailer.scales[c]);
      }
    }
    write_tile(results, output);
  }
};

}  // namespace
