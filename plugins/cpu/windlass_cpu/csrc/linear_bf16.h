// Linear layers over bf16 weights, accumulated in fp32.
#pragma once

#include "linear.h"

namespace windlass {

const LinearKernel& bf16_kernel_scalar();
const LinearKernel& bf16_kernel_avx2();
const LinearKernel& bf16_kernel_avx512();
const LinearKernel& bf16_kernel_avx512bf16();
const LinearKernel& bf16_kernel_amx();
const LinearKernel& bf16_kernel_emulated();  // AMX in plain C++

PanelShape bf16_panel_shape(int64_t inputs);

}  // namespace windlass

extern "C" {
WINDLASS_EXPORT int64_t windlass_linear_bf16_packed_bytes(int64_t outputs, int64_t inputs);

// Packs bf16 w[outputs, inputs], rows `row_stride` elements apart. `is_float`, which other formats
// have, is 0.
WINDLASS_EXPORT int windlass_linear_bf16_pack(const void* weight, int is_float, int64_t row_stride,
                                              int64_t outputs, int64_t inputs, void* packed);

// y[rows, outputs] = x[rows, inputs] * weight^T + bias. Strides in elements. `x` and `bias` are
// bf16, `bias` may be null; `form` is an `Output`.
WINDLASS_EXPORT int windlass_linear_bf16(const void* packed, int64_t outputs, int64_t inputs,
                                         const uint16_t* x, int64_t x_stride, int64_t rows,
                                         const uint16_t* bias, void* output,
                                         int64_t output_stride, int form);

// Copies the rows `ids[count]` of the weight to rows[count, inputs]. `kBadIndex`: an id is not one
// of `outputs`; its row is then left as it was.
WINDLASS_EXPORT int windlass_linear_bf16_rows(const void* packed, int64_t outputs, int64_t inputs,
                                              const int64_t* ids, int64_t count, uint16_t* rows);

// Whether bf16 dot-product instructions are used where the processor has them: 1 always, 0 never,
// -1 (the start value) where they are faster than fp32 multiply-add. Returns the value before.
WINDLASS_EXPORT int windlass_linear_bf16_use_dot(int choice);
}
