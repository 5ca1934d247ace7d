// The int8 product over an Arch as linear_accumulate.h describes it, whose Packed is four
// activations of one row: Arch::quad makes one from int8. Arch::kOffset is what it adds to them.
#pragma once

#include "linear_accumulate.h"
#include "linear_int8.h"
#include "linear_rounding.h"

namespace {

using windlass::kInt8Largest;

constexpr int kInt8StepInputs = 4 * kSlicesPerStep;

// Steps that are rounded together: enough for whole vectors.
constexpr int64_t kInt8RunSteps = 16;

// Rounds steps [begin, end), of which there are at most kInt8RunSteps; zeros stand for inputs
// beyond the last.
inline void quantize_steps(const uint16_t* x, int64_t inputs, int64_t begin, int64_t end,
                           float inverse, int8_t* values) {
  const int64_t first = begin * kInt8StepInputs, count = (end - begin) * kInt8StepInputs;
  const int64_t there = inputs - first < count ? inputs - first : count;
  for (int64_t i = 0; i < there; ++i)
    values[i] = static_cast<int8_t>(
        round_within(float_from_bf16(x[first + i]) * inverse, -kInt8Largest, kInt8Largest));
  for (int64_t i = there; i < count; ++i) values[i] = 0;
}

// Calls write(step, its rounded values) for steps [begin, end) of a row.
template <class Write>
inline void quantize_row(const uint16_t* x, int64_t inputs, int64_t begin, int64_t end, float scale,
                         const Write& write) {
  const float inverse = inverse_of(scale);
  alignas(64) int8_t values[kInt8RunSteps * kInt8StepInputs];
  for (int64_t first = begin; first < end; first += kInt8RunSteps) {
    const int64_t last = first + kInt8RunSteps < end ? first + kInt8RunSteps : end;
    quantize_steps(x, inputs, first, last, inverse, values);
    for (int64_t step = first; step < last; ++step)
      write(step, values + (step - first) * kInt8StepInputs);
  }
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
      auto* const row = reinterpret_cast<Quad*>(packed) + r;
      quantize_row(rows.x + r * rows.stride, rows.inputs, begin, end, rows.scales[r],
                   [&](int64_t step, const int8_t* values) {
                     Quad* const out = row + step * kSlicesPerStep * count;
                     for (int u = 0; u < kSlicesPerStep; ++u)
                       out[u * count] = Arch::quad(values + 4 * u);
                   });
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
