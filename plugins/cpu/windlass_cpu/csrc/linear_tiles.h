// Products in tiles: registers of up to 16 rows of 64 bytes, which AMX multiplies as matrices.
//
// The loops are written once over a `Tiles` that names what an instruction does to a tile: AMX
// itself, or plain C++ that does the same, so that the loops can be tested on any processor.
// Everything has internal linkage: see linear_output.h.
//
// A turn of the loop takes a block of a panel's steps: with four of them, 16 slices, that is 32
// inputs of bf16 or 64 of int8. Half of each slice, 64 bytes, is a row of a tile of weights just as
// it lies. Where blocks of four do not divide the panel, all its blocks are smaller.
//
// Packed activations are [block][row][step of the block], so that a block of up to 16 rows is a
// tile. More than 16 rows are two tiles, the second of the last 16: what both hold is computed
// twice, which takes no longer, and all tiles of a product are of one height.
//
// A Tiles has, with A and B (0 or 1) counting tiles of activations and of weights: configure,
// release, zero<A, B>, load_activations<A>, load_weights<B>, multiply<A, B>, store<A, B>.
#pragma once

#include <cstdint>
#include <utility>

#include "linear_accumulate.h"

namespace {

constexpr int kTileRows = 16, kTileBytes = 64;
constexpr int kLargestBlock = kTileRows / kSlicesPerStep;  // steps
constexpr int64_t kTileStepBytes = kTileBytes / kLargestBlock;
constexpr int kMostTileRows = 2 * kTileRows;

// Steps of each block of a panel: as many as a tile holds, but the same number everywhere.
inline int block_steps(int64_t steps) {
  int block = kLargestBlock;
  while (steps % block != 0) --block;
  return block;
}

// Walks one row's steps through packed activations.
class TileRow {
 public:
  TileRow(char* packed, int64_t steps, int row, int count, int64_t first)
      : block_(block_steps(steps)),
        step_(first % block_),
        jump_((count - 1) * block_ * kTileStepBytes),
        at_(packed + (first - step_) * count * kTileStepBytes +
            (row * block_ + step_) * kTileStepBytes) {}

  char* at() const { return at_; }
  void next() {
    at_ += kTileStepBytes;
    if (++step_ == block_) {
      step_ = 0;
      at_ += jump_;
    }
  }

 private:
  const int64_t block_;
  int64_t step_;        // within its block
  const int64_t jump_;  // over the block's other rows
  char* at_;
};

// Adds one block's products.
template <class Tiles, bool kTwo>
inline void multiply_block(const char* weights, const char* activations, const char* last,
                           int64_t stride) {
  Tiles::template load_activations<0>(activations, stride);
  Tiles::template load_weights<0>(weights, kSliceBytes);
  Tiles::template multiply<0, 0>();
  Tiles::template load_weights<1>(weights + kTileBytes, kSliceBytes);
  Tiles::template multiply<0, 1>();
  if constexpr (kTwo) {
    Tiles::template load_activations<1>(last, stride);
    Tiles::template multiply<1, 0>();
    Tiles::template multiply<1, 1>();
  }
}

template <class Tiles, bool kTwo>
inline void zero_sums() {
  Tiles::template zero<0, 0>();
  Tiles::template zero<0, 1>();
  if constexpr (kTwo) {
    Tiles::template zero<1, 0>();
    Tiles::template zero<1, 1>();
  }
}

// Stores the sums of the first 16 rows and, with `kTwo`, of those from `last` on.
template <class Tiles, bool kTwo, class Sum>
inline void store_sums(Sum (&sums)[kMostTileRows][kPanelColumns], int last) {
  Tiles::template store<0, 0>(&sums[0][0], sizeof sums[0]);
  Tiles::template store<0, 1>(&sums[0][kTileRows], sizeof sums[0]);
  if constexpr (kTwo) {
    Tiles::template store<1, 0>(&sums[last][0], sizeof sums[0]);
    Tiles::template store<1, 1>(&sums[last][kTileRows], sizeof sums[0]);
  }
}

// The sums of all blocks, of the first 16 rows and, with `kTwo`, of the last 16.
template <class Tiles, bool kTwo, class Sum>
inline void accumulate_blocks(const TileInput& input, int rows, int block,
                              Sum (&sums)[kMostTileRows][kPanelColumns]) {
  zero_sums<Tiles, kTwo>();
  const int64_t stride = block * kTileStepBytes;
  const int last = kTwo ? rows - kTileRows : 0;
  const int prefetch_lines = block * input.prefetch_lines;
  const char* weights = input.weights;
  const char* activations = input.activations;
  const char* prefetch = input.prefetch;
  for (int64_t step = 0; step < input.steps; step += block) {
    for (int line = 0; line < prefetch_lines; ++line, prefetch += 64)
      __builtin_prefetch(prefetch, 0, 2);
    multiply_block<Tiles, kTwo>(weights, activations, activations + last * stride, stride);
    weights += block * kSlicesPerStep * kSliceBytes;
    activations += rows * stride;
  }
  store_sums<Tiles, kTwo>(sums, last);
}

// The sums of up to 32 rows.
template <class Tiles, class Sum>
inline void accumulate_tiles(const TileInput& input, int rows,
                             Sum (&sums)[kMostTileRows][kPanelColumns]) {
  static_assert(sizeof(Sum) == 4, "a tile of sums holds 16 in a row");
  const int block = block_steps(input.steps);
  Tiles::configure(rows < kTileRows ? rows : kTileRows, block);
  if (rows > kTileRows) accumulate_blocks<Tiles, true>(input, rows, block, sums);
  else accumulate_blocks<Tiles, false>(input, rows, block, sums);
}

// A kernel of `Format`, which has pack, and rows for what a tile of any height does.
template <class Format>
struct AnyHeight {
  static constexpr int64_t kStepBytes = Format::kStepBytes;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    Format::pack(rows, count, begin, end, packed);
  }
  template <int Count>
  static void tile(const TileInput& input, const TileOutput& output) {
    Format::tile(Count, input, output);
  }
};

template <class Format>
const LinearKernel& tile_kernel_of() {
  static const LinearKernel kernel = [] {
    LinearKernel made = make_kernel<AnyHeight<Format>>(
        std::make_integer_sequence<int, kMostTileRows>());
    made.finish = Format::Tiles::release;
    return made;
  }();
  return kernel;
}

}  // namespace
