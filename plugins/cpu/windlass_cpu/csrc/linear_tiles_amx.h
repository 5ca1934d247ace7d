// The Tiles of linear_tiles.h that the processor has. Internal linkage: see linear_output.h.
//
// Sums are in tiles 0 to 3, activations in 4 and 5, weights in 6 and 7. Intrinsics want the number
// of a tile as a literal, since GCC pastes it into an instruction's name.
#pragma once

#include <immintrin.h>

#include "linear_tiles.h"

namespace {

// What LDTILECFG reads.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfiguration) == 64, "as the processor defines it");

struct AmxTiles {
  // Rows and steps that this thread's tiles are set to hold, 0 when they are released.
  static int& configured() {
    thread_local int shape = 0;
    return shape;
  }

  // Sums and activations have `rows` rows, a block `steps` steps.
  static void configure(int rows, int steps) {
    const int shape = rows * (kLargestBlock + 1) + steps;
    if (configured() == shape) return;
    TileConfiguration to;
    for (int tile = 0; tile < 8; ++tile) {
      const bool activations = tile == 4 || tile == 5, weights = tile >= 6;
      to.row_bytes[tile] = activations ? steps * kTileStepBytes : kTileBytes;
      to.rows[tile] = weights ? steps * kSlicesPerStep : rows;
    }
    // GCC takes LDTILECFG to read fewer bytes than it does, and would leave out the other stores.
    asm volatile("" : : "r"(&to) : "memory");
    _tile_loadconfig(&to);
    configured() = shape;
  }

  // A thread that keeps tiles makes every switch of threads save them.
  static void release() {
    if (configured() == 0) return;
    _tile_release();
    configured() = 0;
  }

  template <int A, int B>
  static void zero() {
    if constexpr (A == 0 && B == 0) _tile_zero(0);
    else if constexpr (A == 0) _tile_zero(1);
    else if constexpr (B == 0) _tile_zero(2);
    else _tile_zero(3);
  }
  template <int A>
  static void load_activations(const char* from, int64_t stride) {
    if constexpr (A == 0) _tile_loadd(4, from, stride);
    else _tile_loadd(5, from, stride);
  }
  template <int B>
  static void load_weights(const char* from, int64_t stride) {
    if constexpr (B == 0) _tile_loadd(6, from, stride);
    else _tile_loadd(7, from, stride);
  }
  template <int A, int B>
  static void store(void* to, int64_t stride) {
    if constexpr (A == 0 && B == 0) _tile_stored(0, to, stride);
    else if constexpr (A == 0) _tile_stored(1, to, stride);
    else if constexpr (B == 0) _tile_stored(2, to, stride);
    else _tile_stored(3, to, stride);
  }
};

struct AmxInt8Tiles : AmxTiles {
  template <int A, int B>
  static void multiply() {
    if constexpr (A == 0 && B == 0) _tile_dpbssd(0, 4, 6);
    else if constexpr (A == 0) _tile_dpbssd(1, 4, 7);
    else if constexpr (B == 0) _tile_dpbssd(2, 5, 6);
    else _tile_dpbssd(3, 5, 7);
  }
};

struct AmxBf16Tiles : AmxTiles {
  template <int A, int B>
  static void multiply() {
    if constexpr (A == 0 && B == 0) _tile_dpbf16ps(0, 4, 6);
    else if constexpr (A == 0) _tile_dpbf16ps(1, 4, 7);
    else if constexpr (B == 0) _tile_dpbf16ps(2, 5, 6);
    else _tile_dpbf16ps(3, 5, 7);
  }
};

}  // namespace
