// The inner loop of a product, written once over an `Arch` that names the vectors of an instruction
// set and a weight format. Everything has internal linkage: see linear_output.h.
//
// An Arch has: kRows (largest tile), kVectors (a slice in vectors), Sum, Weights, Activation,
// Packed (one row's activations in one slice), Result (float or int32_t), zero, load, broadcast,
// multiply, add, store.
#pragma once

#include <cstdint>
#include <utility>

#include "linear.h"

namespace {

using windlass::kPanelColumns;
using windlass::kSliceBytes;
using windlass::kSlicesPerStep;
using windlass::LinearKernel;
using windlass::Rows;
using windlass::TileInput;
using windlass::TileOutput;

// Adds the products of one slice. Of weights and activations, those that need fewer registers stay
// in them while the others pass.
template <class Arch, int Count>
inline void multiply_slice(const char* weights, const typename Arch::Packed* activations,
                           typename Arch::Sum (&sums)[Count][Arch::kVectors]) {
  constexpr int kVectors = Arch::kVectors, kVectorBytes = kSliceBytes / kVectors;
  if constexpr (kVectors < Arch::kRows) {
    typename Arch::Weights w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = Arch::load(weights + v * kVectorBytes);
#pragma GCC unroll 16
    for (int r = 0; r < Count; ++r) {
      const auto a = Arch::broadcast(activations + r);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Arch::multiply(sums[r][v], w[v], a);
    }
  } else {
    typename Arch::Activation a[Count];
#pragma GCC unroll 16
    for (int r = 0; r < Count; ++r) a[r] = Arch::broadcast(activations + r);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto w = Arch::load(weights + v * kVectorBytes);
#pragma GCC unroll 16
      for (int r = 0; r < Count; ++r) Arch::multiply(sums[r][v], w, a[r]);
    }
  }
}

// A tile of few rows keeps several sums for each output, or it would wait for its own additions.
template <class Arch, int Count>
constexpr int kChains = Count * Arch::kVectors >= 8 ? 1 : Count * Arch::kVectors >= 4 ? 2 : 4;

// The sums of all slices of a tile.
template <class Arch, int Count>
inline void accumulate(const TileInput& input,
                       typename Arch::Result (&results)[Count][kPanelColumns]) {
  constexpr int kVectors = Arch::kVectors, kSums = kChains<Arch, Count>;
  typename Arch::Sum sums[kSums][Count][kVectors];
  for (auto& chain : sums)
    for (auto& row : chain)
      for (auto& sum : row) sum = Arch::zero();

  const char* weights = input.weights;
  const char* prefetch = input.prefetch;
  const auto* activations = reinterpret_cast<const typename Arch::Packed*>(input.activations);
  for (int64_t step = 0; step < input.steps; ++step) {
    for (int line = 0; line < input.prefetch_lines; ++line, prefetch += 64)
      __builtin_prefetch(prefetch, 0, 2);
#pragma GCC unroll 4
    for (int u = 0; u < kSlicesPerStep; ++u)
      multiply_slice<Arch>(weights + u * kSliceBytes, activations + u * Count, sums[u % kSums]);
    weights += kSlicesPerStep * kSliceBytes;
    activations += kSlicesPerStep * Count;
  }

  for (int r = 0; r < Count; ++r)
    for (int v = 0; v < kVectors; ++v) {
      for (int s = 1; s < kSums; ++s) Arch::add(sums[0][r][v], sums[s][r][v]);
      Arch::store(&results[r][v * (kPanelColumns / kVectors)], sums[0][r][v]);
    }
}

// A kernel of `Format`, whose tile<Count> takes Count rows.
template <class Format, int... Row>
LinearKernel make_kernel(std::integer_sequence<int, Row...>) {
  LinearKernel kernel{};
  kernel.max_rows = sizeof...(Row);
  kernel.step_bytes = Format::kStepBytes;
  kernel.pack = Format::pack;
  ((kernel.tile[Row + 1] = Format::template tile<Row + 1>), ...);
  return kernel;
}

template <class Format>
const LinearKernel& kernel_of() {
  static const LinearKernel kernel =
      make_kernel<Format>(std::make_integer_sequence<int, Format::kRows>());
  return kernel;
}

}  // namespace
