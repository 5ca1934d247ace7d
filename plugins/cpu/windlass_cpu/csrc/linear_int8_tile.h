// The int8 product over an Arch as linear_accumulate.h describes it, whose Packed is four
// activations of one row: Arch::quad makes one from int8. Arch::kOffset is what it adds to them.
#pragma once

#include "linear_accumulate.h"
#include "linear_int8.h"
#include "linear_rounding.h"

namespace {

using windlass::kInt8Largest;

constexpr int kInt8StepInputs = 4 * kSlicesPerStep;

// Rounds one step of a row, with zeros beyond its last input.
inline void quantize_step(const uint16_t* x, int64_t inputs, int64_t first, float inverse,
                          int8_t* values) {
  uint16_t step[kInt8StepInputs] = {};
  const int64_t left = inputs - first;
  if (left >= kInt8StepInputs) std::memcpy(step, x + first, sizeof step);
  else std::memcpy(step, x + first, left * sizeof *x);
  for (int i = 0; i < kInt8StepInputs; ++i)
    values[i] = static_cast<int8_t>(
        round_within(float_from_bf16(step[i]) * inverse, -kInt8Largest, kInt8Largest));
}

// Writes sums of products with activations to which `offset` was added.
template <int Most>
inline void write_scaled(const int32_t (&sums)[Most][kPanelColumns], int32_t offset,
                         const TileInput& input, const TileOutput& output, int rows = Most) {
  const auto& trailer = *reinterpret_cast<const windlass::Int8Trailer*>(
      input.weights + input.steps * kSlicesPerStep * kSliceBytes);
  alignas(64) float results[Most][kPanelColumns];
  for (int r = 0; r < rows; ++r) {
    const float row_scale = input.row_scales[r];
    for (int c = 0; c < kPanelColumns; ++c) {
      const int32_t sum = sums[r][c] - offset * trailer.weight_sums[c];
      results[r][c] = static_cast<float>(sum) * (row_scale * trailer.scales[c]);
    }
  }
  write_tile(results, output, rows);
}

template <class Arch>
struct Int8Format {
  using Quad = typename Arch::Packed;
  static constexpr int kRows = Arch::kRows;
  static constexpr int64_t kStepBytes = kSlicesPerStep * sizeof(Quad);

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    for (int r = 0; r < count; ++r) {
      const float inverse = inverse_of(rows.scales[r]);
      const uint16_t* x = rows.x + r * rows.stride;
      for (int64_t step = begin; step < end; ++step) {
        alignas(16) int8_t values[kInt8StepInputs];
        quantize_step(x, rows.inputs, step * kInt8StepInputs, inverse, values);
        auto* out = reinterpret_cast<Quad*>(packed) + step * kSlicesPerStep * count + r;
        for (int u = 0; u < kSlicesPerStep; ++u) out[u * count] = Arch::quad(values + 4 * u);
      }
    }
  }

  template <int Count>
  static void tile(const TileInput& input, const TileOutput& output) {
    alignas(64) int32_t sums[Count][kPanelColumns];
    accumulate<Arch>(input, sums);
    write_scaled(sums, Arch::kOffset, input, output);
  }
};

}  // namespace
