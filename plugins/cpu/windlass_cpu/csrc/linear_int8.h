// Linear layers over int8 weights with one scale for each output channel. Activations are quantised
// to int8 by row for each product; products are summed in int32.
//
// After its slices a panel holds the 32 scales (fp32) and the 32 sums of each channel's quantised
// weights (int32), which undo the offset of instruction sets that multiply unsigned activations.
#pragma once

#include "linear.h"

namespace windlass {

constexpr int kInt8Largest = 127;
// Where 255 * 127 * inputs still fits the 32-bit sums.
constexpr int64_t kInt8MostInputs = 65536;

struct Int8Trailer {
  float scales[kPanelColumns];
  int32_t weight_sums[kPanelColumns];
};

const LinearKernel& int8_kernel_scalar();
const LinearKernel& int8_kernel_avx2();
const LinearKernel& int8_kernel_avx512();
const LinearKernel& int8_kernel_avx512vnni();
const LinearKernel& int8_kernel_amx();
const LinearKernel& int8_kernel_emulated();  // AMX in plain C++

}  // namespace windlass

extern "C" {
WINDLASS_EXPORT int64_t windlass_linear_int8_packed_bytes(int64_t outputs, int64_t inputs);

// Quantises and packs w[outputs, inputs], bf16 or fp32, rows `row_stride` elements apart. Every
// channel's largest magnitude becomes 127. `inputs` is at most 65536.
WINDLASS_EXPORT int windlass_linear_int8_pack(const void* weight, int is_float, int64_t row_stride,
                                              int64_t outputs, int64_t inputs, void* packed);

// As windlass_linear_bf16.
WINDLASS_EXPORT int windlass_linear_int8(const void* packed, int64_t outputs, int64_t inputs,
                                         const uint16_t* x, int64_t x_stride, int64_t rows,
                                         const uint16_t* bias, void* output,
                                         int64_t output_stride, int form);
}
