// The int4 product over an Arch: kRows, kVectors (a slice in vectors), Sum (of int32), Float, zero,
// set (one int32 everywhere), add_block (a group of one vector's channels), scales (fp16 to
// Float), add_scaled, store.
#pragma once

#include "linear_accumulate.h"
#include "linear_int4.h"
#include "linear_rounding.h"

namespace {

using windlass::kInt4Group;
using windlass::kInt4Offset;
using windlass::kInt4ScaleBytes;
using windlass::kInt4SliceInputs;

// One row's activations in one slice.
struct Octet {
  int8_t values[kInt4SliceInputs];
};

// Packed activations of `count` rows in one group.
struct Int4Activations {
  static constexpr int kSlices = kInt4Group / kInt4SliceInputs;
  static constexpr int64_t kRowBytes = sizeof(float) + sizeof(int32_t) + kSlices * sizeof(Octet);

  float* scales;
  int32_t* corrections;  // what the weights' offset adds, negated
  Octet* octets;         // [slice][row]

  Int4Activations(char* packed, int count)
      : scales(reinterpret_cast<float*>(packed)),
        corrections(reinterpret_cast<int32_t*>(scales + count)),
        octets(reinterpret_cast<Octet*>(corrections + count)) {}
};

// Rounds one group of row `r`, with zeros beyond the last input; returns its scale.
inline float round_int4_activations(const Rows& rows, int r, int64_t group,
                                    int8_t (&rounded)[kInt4Group], int32_t* sum) {
  const int64_t first = group * kInt4Group, left = rows.inputs - first;
  uint16_t x[kInt4Group] = {};
  const int64_t count = left < kInt4Group ? left : kInt4Group;
  std::memcpy(x, rows.x + r * rows.stride + first, count * sizeof *x);
  const float magnitude = bf16_magnitude(x, kInt4Group);
  const float scale = (magnitude - magnitude == 0 ? magnitude : magnitude - magnitude) / 127;
  float values[kInt4Group];
  for (int i = 0; i < kInt4Group; ++i) values[i] = float_from_bf16(x[i]);
  *sum = round_values(values, kInt4Group, inverse_of(scale), -127, 127, rounded);
  return scale;
}

template <class Arch>
struct Int4Format {
  static constexpr int kRows = Arch::kRows, kVectors = Arch::kVectors;
  static constexpr int64_t kStepBytes = Int4Activations::kRowBytes;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    for (int64_t group = begin; group < end; ++group) {
      const Int4Activations to(packed + group * kStepBytes * count, count);
      for (int r = 0; r < count; ++r) {
        int8_t rounded[kInt4Group];
        int32_t sum;
        to.scales[r] = round_int4_activations(rows, r, group, rounded, &sum);
        to.corrections[r] = -kInt4Offset * sum;
        for (int s = 0; s < Int4Activations::kSlices; ++s)
          std::memcpy(to.octets[s * count + r].values, rounded + s * kInt4SliceInputs,
                      kInt4SliceInputs);
      }
    }
  }

  template <int Count>
  static void tile(const TileInput& input, const TileOutput& output) {
    constexpr int kSlices = Int4Activations::kSlices;
    constexpr int64_t kGroupBytes = kSlices * kSliceBytes + kInt4ScaleBytes;
    typename Arch::Float sums[Count][kVectors];
    for (auto& row : sums)
      for (auto& sum : row) sum = Arch::zero();
    const char* weights = input.weights;
    const char* prefetch = input.prefetch;
    for (int64_t group = 0; group < input.steps; ++group, weights += kGroupBytes) {
      for (int line = 0; line < input.prefetch_lines; ++line, prefetch += 64)
        __builtin_prefetch(prefetch, 0, 2);
      const Int4Activations from(const_cast<char*>(input.activations) + group * kStepBytes * Count,
                             Count);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) add_group(weights, v, from, sums);
    }
    alignas(64) float results[Count][kPanelColumns];
    for (int r = 0; r < Count; ++r)
      for (int v = 0; v < kVectors; ++v)
        Arch::store(&results[r][v * (kPanelColumns / kVectors)], sums[r][v]);
    write_tile(results, output);
  }

  // Adds one group's products for the channels of vector `v`.
  template <int Count>
  static inline void add_group(const char* weights, int v, const Int4Activations& from,
                               typename Arch::Float (&sums)[Count][kVectors]) {
    constexpr int kSlices = Int4Activations::kSlices;
    typename Arch::Sum group[Count];
#pragma GCC unroll 16
    for (int r = 0; r < Count; ++r) group[r] = Arch::set(from.corrections[r]);
    Arch::template add_block<Count>(weights + v * (kSliceBytes / kVectors), from.octets, group);
    const auto scales =
        Arch::scales(weights + kSlices * kSliceBytes + v * (kInt4ScaleBytes / kVectors));
#pragma GCC unroll 16
    for (int r = 0; r < Count; ++r)
      Arch::add_scaled(sums[r][v], group[r], scales, from.scales[r]);
  }
};

template <class Arch>
const LinearKernel& int4_kernel() {
  return kernel_of<Int4Format<Arch>>();
}

}  // namespace
