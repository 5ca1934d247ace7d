// The int4 product over the Tiles of linear_tiles.h.
//
// A thread unpacks a panel to int8 slices once and keeps it while groups of rows pass. The products
// of a group of inputs are stored, and scaled into fp32 sums while the next group is multiplied.
//
// Packed activations are [group][row][32 inputs], then the scales [group][row].
#pragma once

#include <memory>

#include "linear_half.h"
#include "linear_int4_tile.h"
#include "linear_tiles.h"

namespace {

// A panel as int8 slices of 4 inputs and fp32 scales.
class UnpackedPanel {
 public:
  static constexpr int64_t kSlices = kInt4Group / kInt4SliceInputs;  // packed, of a group
  static constexpr int64_t kGroupBytes = 2 * kSlices * kSliceBytes;  // unpacked

  const char* weights(int64_t group) const { return weights_ + group * kGroupBytes; }
  const float* scales(int64_t group) const { return scales_ + group * kPanelColumns; }

  // `memory` holds bytes(groups), at a multiple of 64.
  UnpackedPanel(char* memory, int64_t groups)
      : weights_(memory), scales_(reinterpret_cast<float*>(memory + groups * kGroupBytes)) {}

  static int64_t bytes(int64_t groups) {
    return groups * (kGroupBytes + kPanelColumns * static_cast<int64_t>(sizeof(float)));
  }

  void unpack(const char* packed, int64_t groups) const {
    for (int64_t group = 0; group < groups; ++group) {
      char* to = weights_ + group * kGroupBytes;
      for (int64_t s = 0; s < kSlices; ++s, packed += kSliceBytes, to += 2 * kSliceBytes)
        unpack_slice(packed, to);
      uint16_t halves[kPanelColumns];
      std::memcpy(halves, packed, sizeof halves);
      packed += kInt4ScaleBytes;
      for (int c = 0; c < kPanelColumns; ++c)
        scales_[group * kPanelColumns + c] = float_from_half(halves[c]);
    }
  }

 private:
  static void unpack_slice(const char* packed, char* to) {
    for (int i = 0; i < kSliceBytes; ++i) {
      const auto halves = static_cast<uint8_t>(packed[i]);
      to[i] = static_cast<char>((halves & 15) - kInt4Offset);
      to[kSliceBytes + i] = static_cast<char>((halves >> 4) - kInt4Offset);
    }
  }

  char* weights_;
  float* scales_;
};

// This thread's unpacked panel, kept between the groups of rows of a call.
// Not a std::vector: of what its members compile to in files of several instruction sets the linker
// keeps one, which the processor may not have.
struct PanelMemory {
  std::unique_ptr<char[]> memory;
  int64_t size = 0;
  const char* unpacked = nullptr;  // the packed panel that it holds

  char* at_least(int64_t bytes) {
    if (size < bytes + kTileBytes) {
      memory.reset(new char[bytes + kTileBytes]);
      size = bytes + kTileBytes;
      unpacked = nullptr;
    }
    const auto address = reinterpret_cast<uintptr_t>(memory.get());
    return memory.get() + (-address & (kTileBytes - 1));
  }
};

inline PanelMemory& panel_memory() {
  thread_local PanelMemory memory;
  return memory;
}

template <class SomeTiles>
struct Int4TileFormat {
  // Tiles that forget the unpacked panel when they are released: other weights may come to lie
  // where it was packed.
  struct Tiles : SomeTiles {
    static void release() {
      panel_memory().unpacked = nullptr;
      SomeTiles::release();
    }
  };
  using Sums = float[kMostTileRows][kPanelColumns];
  using GroupSums = int32_t[kMostTileRows][kPanelColumns];

  static constexpr int64_t kStepBytes = kInt4Group + sizeof(float);
  static constexpr int kGroupSteps = kInt4Group / kTileStepBytes;

  static void pack(const Rows& rows, int count, int64_t begin, int64_t end, char* packed) {
    const int64_t groups = windlass::divide_up(rows.inputs, kInt4Group);
    auto* scales = reinterpret_cast<float*>(packed + groups * kInt4Group * count);
    for (int64_t group = begin; group < end; ++group)
      for (int r = 0; r < count; ++r) {
        int8_t rounded[kInt4Group];
        int32_t sum;
        scales[group * count + r] = round_int4_activations(rows, r, group, rounded, &sum);
        std::memcpy(packed + (group * count + r) * kInt4Group, rounded, kInt4Group);
      }
  }

  static void tile(int rows, const TileInput& input, const TileOutput& output) {
    PanelMemory& memory = panel_memory();
    const UnpackedPanel panel(memory.at_least(UnpackedPanel::bytes(input.steps)), input.steps);
    if (memory.unpacked != input.weights) panel.unpack(input.weights, input.steps);
    memory.unpacked = input.weights;
    alignas(64) Sums sums;
    Tiles::configure(rows < kTileRows ? rows : kTileRows, kGroupSteps);
    if (rows > kTileRows) accumulate_groups<true>(panel, input, rows, sums);
    else accumulate_groups<false>(panel, input, rows, sums);
    write_tile(sums, output, rows);
  }

  template <bool kTwo>
  static void accumulate_groups(const UnpackedPanel& panel, const TileInput& input, int rows,
                                Sums& sums) {
    const auto* row_scales =
        reinterpret_cast<const float*>(input.activations + input.steps * kInt4Group * rows);
    const char* activations = input.activations;
    const char* prefetch = input.prefetch;
    alignas(64) GroupSums group_sums[2];
    std::memset(sums, 0, rows * sizeof sums[0]);
    for (int64_t group = 0; group < input.steps; ++group) {
      for (int line = 0; line < input.prefetch_lines; ++line, prefetch += 64)
        __builtin_prefetch(prefetch, 0, 2);
      multiply_group<kTwo>(panel.weights(group), activations, rows, group_sums[group % 2]);
      activations += kInt4Group * rows;
      if (group > 0) add_group(panel, row_scales, group - 1, rows, group_sums, sums);
    }
    add_group(panel, row_scales, input.steps - 1, rows, group_sums, sums);
  }

  template <bool kTwo>
  static void multiply_group(const char* weights, const char* activations, int rows,
                             GroupSums& sums) {
    const int last = kTwo ? rows - kTileRows : 0;
    zero_sums<Tiles, kTwo>();
    multiply_block<Tiles, kTwo>(weights, activations, activations + last * kInt4Group, kInt4Group);
    store_sums<Tiles, kTwo>(sums, last);
  }

  static void add_group(const UnpackedPanel& panel, const float* row_scales, int64_t group,
                        int rows, const GroupSums (&group_sums)[2], Sums& sums) {
    const float* scales = panel.scales(group);
    const GroupSums& from = group_sums[group % 2];
    for (int r = 0; r < rows; ++r) {
      const float row_scale = row_scales[group * rows + r];
      for (int c = 0; c < kPanelColumns; ++c)
        sums[r][c] += static_cast<float>(from[r][c]) * (scales[c] * row_scale);
    }
  }
};

}  // namespace
