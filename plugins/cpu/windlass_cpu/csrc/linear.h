// What the linear layers of every weight format share.
//
// Weights are packed once, in panels of 32 output channels. A panel is cut into slices of 128
// bytes: two inputs of bf16, four of int8, eight of int4 for each of the 32 channels, laid side by
// side as a dot-product instruction takes them. A panel is contiguous, so that a product streams
// memory in order. Every instruction set reads the same layout.
//
// Activations are packed for each product: rows go in groups no larger than a micro-kernel, as
// [slice][row], in the form that the instruction set multiplies.
#pragma once

#include <cstdint>

#include "isa.h"

namespace windlass {

constexpr int kPanelColumns = 32;
constexpr int kSliceBytes = 128;
constexpr int kSlicesPerStep = 4;  // slices in one turn of the inner loop
constexpr int kLargestTile = 32;   // rows that a kernel may take at once, at most

constexpr int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

// Some rows of packed activations and the panel that they meet.
struct TileInput {
  const char* activations;
  const char* weights;
  int64_t steps;
  const float* row_scales;  // of activations quantised by row, else null
  // Weights wanted next, fetched into L2 meanwhile: so many cache lines each step.
  const char* prefetch;
  int prefetch_lines;
};

struct TileOutput {
  const uint16_t* bias;  // bf16, of the panel's first column; may be null
  void* output;          // first row, first column of the panel
  int64_t stride;        // elements between rows
  int columns;           // of the panel, without padding
  bool is_float;         // fp32 instead of bf16
};

// Activations as the caller gives them.
struct Rows {
  const uint16_t* x;  // bf16
  int64_t stride;     // elements between rows
  int64_t inputs;
  const float* scales;  // of quantisation by row, else null

  Rows from(int64_t row) const {
    return {x + row * stride, stride, inputs, scales ? scales + row : nullptr};
  }
};

// The code of one instruction set for one weight format.
struct LinearKernel {
  int max_rows;
  int64_t step_bytes;  // of one packed row of activations in one step
  // Packs steps [begin, end) of `count` rows; inputs beyond the last become zero. `packed` is
  // where step 0 of the group lies.
  void (*pack)(const Rows& rows, int count, int64_t begin, int64_t end, char* packed);
  void (*tile[kLargestTile + 1])(const TileInput&, const TileOutput&);  // by rows
  void (*finish)();  // what a thread does after its last tile; may be null
};

// A panel's size in one weight format.
struct PanelShape {
  int64_t steps;
  int64_t step_bytes;
  int64_t bytes;  // of the steps and what follows them
};

// What a product leaves behind. `kGated`: its channels are gates, then as many factors, and
// silu(gate) * factor is what is written, in bf16; each half fills whole panels.
enum class Output : int32_t { kBf16 = 0, kFloat = 1, kGated = 2 };

struct LinearCall {
  const void* packed;
  int64_t outputs, inputs;
  const uint16_t* x;
  int64_t x_stride, rows;
  const uint16_t* bias;
  void* output;
  int64_t output_stride;
  Output form;
  const float* row_scales;
};

// Runs a product with one instruction set's code, on all threads.
void run_linear(const LinearKernel& kernel, const PanelShape& panel, const LinearCall& call);

}  // namespace windlass
