// Linear layers over int4 weights with one fp16 scale for each group of 32 inputs of a channel.
// Activations are quantised to int8 by the same groups for each product; a group is summed in
// int32, groups in fp32.
//
// A panel holds, group by group, the slices of 8 inputs and then the 32 scales. In a slice the
// four bytes of a channel hold inputs 0 to 3 in their low halves and 4 to 7 in their high ones. A
// half is the weight plus eight, so that it can be the unsigned side of a dot product.
#pragma once

#include "linear.h"

namespace windlass {

constexpr int kInt4Low = -8, kInt4High = 7, kInt4Offset = 8;
constexpr int kInt4SliceInputs = 8;
constexpr int kInt4Group = 32;  // inputs of one scale; their sums fit 16 bits
constexpr int kInt4ScaleBytes = 2 * kPanelColumns;

const LinearKernel& int4_kernel_scalar();
const LinearKernel& int4_kernel_avx2();
const LinearKernel& int4_kernel_avx512();
const LinearKernel& int4_kernel_avx512vnni();
const LinearKernel& int4_kernel_amx();
const LinearKernel& int4_kernel_emulated();  // AMX in plain C++

}  // namespace windlass

extern "C" {
WINDLASS_EXPORT int64_t windlass_linear_int4_packed_bytes(int64_t outputs, int64_t inputs);

// Quantises and packs w[outputs, inputs], bf16 or fp32, rows `row_stride` elements apart.
WINDLASS_EXPORT int windlass_linear_int4_pack(const void* weight, int is_float, int64_t row_stride,
                                              int64_t outputs, int64_t inputs, void* packed);

// As windlass_linear_bf16.
WINDLASS_EXPORT int windlass_linear_int4(const void* packed, int64_t outputs, int64_t inputs,
                                         const uint16_t* x, int64_t x_stride, int64_t rows,
                                         const uint16_t* bias, void* output,
                                         int64_t output_stride, int form);
}
