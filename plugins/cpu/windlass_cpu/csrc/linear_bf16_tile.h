// The micro-kernel of the bf16 product, written once over an `Arch` that names the vectors of an
// instruction set. Everything has internal linkage: see linear_output.h.
//
// An Arch has: kRows (largest tile), kVectors (a panel's 32 columns in vectors), Accumulator,
// Weights, Activation, Pair (two packed activations), zero, load, broadcast, multiply, add, store,
// pair.
#pragma once

#include <utility>

#include "linear_bf16.h"
#include "linear_output.h"

namespace {

using windlass::Bf16Kernel;
using windlass::Bf16Tile;
using windlass::kPairsPerStep;
using windlass::kPanelColumns;

template <class Arch>
void pack_pairs(const uint16_t* x, int64_t row_stride, int64_t inputs, int rows, int64_t begin,
                int64_t end, void* packed) {
  auto* out = static_cast<typename Arch::Pair*>(packed);
  const int64_t whole = inputs / 2 < end ? inputs / 2 : end;
  for (int r = 0; r < rows; ++r) {
    const uint16_t* row = x + r * row_stride;
    int64_t i = begin;
    for (; i < whole; ++i) out[i * rows + r] = Arch::pair(row[2 * i], row[2 * i + 1]);
    for (; i < end; ++i) {
      out[i * rows + r] = Arch::pair(2 * i < inputs ? row[2 * i] : uint16_t{0}, uint16_t{0});
    }
  }
}

// A tile of few rows keeps several sums for each output, or it would wait for its own additions.
template <class Arch, int Rows>
constexpr int kChains = Rows * Arch::kVectors >= 8 ? 1 : Rows * Arch::kVectors >= 4 ? 2 : 4;

// Adds the products of one pair of inputs. Of weights and activations, those that need fewer
// registers stay in them while the others pass.
template <class Arch, int Rows>
inline void multiply_pair(const uint16_t* weights, const typename Arch::Pair* activations,
                          typename Arch::Accumulator (&sums)[Rows][Arch::kVectors]) {
  constexpr int kVectors = Arch::kVectors, kElements = kPanelColumns * 2 / kVectors;
  if constexpr (kVectors < Arch::kRows) {
    typename Arch::Weights w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = Arch::load(weights + v * kElements);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const auto a = Arch::broadcast(activations + r);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Arch::multiply(sums[r][v], w[v], a);
    }
  } else {
    typename Arch::Activation a[Rows];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) a[r] = Arch::broadcast(activations + r);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto w = Arch::load(weights + v * kElements);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) Arch::multiply(sums[r][v], w, a[r]);
    }
  }
}

template <class Arch, int Rows>
void bf16_tile(const Bf16Tile& tile) {
  constexpr int kVectors = Arch::kVectors, kSums = kChains<Arch, Rows>;
  constexpr int kElements = kPanelColumns * 2;  // of the weights of one pair of inputs
  typename Arch::Accumulator sums[kSums][Rows][kVectors];
  for (auto& chain : sums)
    for (auto& row : chain)
      for (auto& sum : row) sum = Arch::zero();

  const uint16_t* weights = tile.weights;
  const auto* activations = static_cast<const typename Arch::Pair*>(tile.activations);
  const char* prefetch = tile.prefetch;
  for (int64_t i = 0; i < tile.pairs; i += kPairsPerStep) {
    for (int line = 0; line < tile.prefetch_lines; ++line, prefetch += 64)
      __builtin_prefetch(prefetch, 0, 2);
#pragma GCC unroll 4
    for (int u = 0; u < kPairsPerStep; ++u) {
      multiply_pair<Arch>(weights + u * kElements, activations + u * Rows, sums[u % kSums]);
    }
    weights += kPairsPerStep * kElements;
    activations += kPairsPerStep * Rows;
  }

  alignas(64) float results[Rows][kPanelColumns];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      for (int s = 1; s < kSums; ++s) Arch::add(sums[0][r][v], sums[s][r][v]);
      Arch::store(&results[r][v * (kPanelColumns / kVectors)], sums[0][r][v]);
    }
  write_tile<kPanelColumns>(&results[0][0], Rows, tile.columns, tile.bias, tile.float_output,
                            tile.output, tile.output_stride);
}

template <class Arch, int... Row>
Bf16Kernel make_bf16_kernel(std::integer_sequence<int, Row...>) {
  Bf16Kernel kernel{};
  kernel.max_rows = Arch::kRows;
  kernel.pair_bytes = sizeof(typename Arch::Pair);
  kernel.pack = pack_pairs<Arch>;
  ((kernel.tile[Row + 1] = bf16_tile<Arch, Row + 1>), ...);
  return kernel;
}

template <class Arch>
const Bf16Kernel& bf16_kernel() {
  static const Bf16Kernel kernel =
      make_bf16_kernel<Arch>(std::make_integer_sequence<int, Arch::kRows>());
  return kernel;
}

}  // namespace
