// A linear layer over bf16 weights: y[T, N] = x[T, K] * w[N, K]^T + bias, accumulated in fp32.
//
// The weights are packed once. A panel holds 32 output channels; inside it, the two values of
// channel c at inputs 2i and 2i + 1 lie side by side at [i][c][0..1], as a bf16 dot product takes
// them. A panel is contiguous, so that a product streams memory in order. K is padded to a
// multiple of eight and N to one of 32, with zeros. Every instruction set reads this layout.
#pragma once

#include <cstdint>

#include "isa.h"

namespace windlass {

constexpr int kPanelColumns = 32;
constexpr int kPairsPerStep = 4;  // pairs of inputs in one turn of the inner loop
constexpr int kLargestTile = 16;  // rows that a kernel may take at once, at most

struct Bf16Shape {
  int64_t inputs, outputs;

  int64_t steps() const { return (inputs + 2 * kPairsPerStep - 1) / (2 * kPairsPerStep); }
  int64_t pairs() const { return steps() * kPairsPerStep; }
  int64_t panels() const { return (outputs + kPanelColumns - 1) / kPanelColumns; }
  int64_t panel_elements() const { return pairs() * kPanelColumns * 2; }
};

// Some rows of activations against one panel.
struct Bf16Tile {
  const void* activations;  // packed by the kernel's own pack()
  const uint16_t* weights;
  int64_t pairs;
  const uint16_t* bias;  // of the panel's first column; may be null
  void* output;          // first row, first column of the panel
  int64_t output_stride;
  int columns;        // of the panel, without padding
  bool float_output;  // fp32 instead of bf16
  // Weights wanted next, fetched into L2 meanwhile: so many cache lines each inner step.
  const char* prefetch;
  int prefetch_lines;
};

// The code of one instruction set.
struct Bf16Kernel {
  int max_rows;
  int64_t pair_bytes;  // of one packed pair of activations
  // Packs pairs [begin, end) of `rows` rows as [pair][row]; inputs beyond `inputs` become zero.
  void (*pack)(const uint16_t* x, int64_t row_stride, int64_t inputs, int rows, int64_t begin,
               int64_t end, void* packed);
  void (*tile[kLargestTile + 1])(const Bf16Tile&);  // by rows
};

const Bf16Kernel& bf16_kernel_scalar();
const Bf16Kernel& bf16_kernel_avx2();
const Bf16Kernel& bf16_kernel_avx512();
const Bf16Kernel& bf16_kernel_avx512bf16();

}  // namespace windlass

extern "C" {
WINDLASS_EXPORT int64_t windlass_linear_bf16_packed_bytes(int64_t outputs, int64_t inputs);

// Packs w[outputs, inputs], whose rows start `row_stride` elements apart.
WINDLASS_EXPORT void windlass_linear_bf16_pack(const uint16_t* weight, int64_t row_stride,
                                               int64_t outputs, int64_t inputs, void* packed);

// Strides in elements. `bias` is bf16 or null; `output` is fp32 if `float_output`, else bf16.
WINDLASS_EXPORT void windlass_linear_bf16(const void* packed, int64_t outputs, int64_t inputs,
                                          const uint16_t* x, int64_t x_stride, int64_t rows,
                                          const uint16_t* bias, void* output,
                                          int64_t output_stride, int float_output);

// Whether bf16 dot-product instructions are used where the processor has them: 1 always, 0 never,
// -1 (the start value) where they are faster than fp32 multiply-add. Returns the value before.
WINDLASS_EXPORT int windlass_linear_bf16_use_dot(int choice);
}
