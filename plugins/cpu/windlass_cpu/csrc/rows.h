// Kernels that walk rows of activations: what crosses the C boundary, and the functions of one
// instruction set.
#pragma once

#include <cstdint>

#include "attention.h"

namespace windlass {

// Rows [T, size] side by side. With a residual, rows and residual are added first and the sum is
// left in `residual_out`.
struct NormCall {
  const void* rows;
  const void* residual;  // or null
  const void* weight;    // [size]
  void* residual_out;
  void* out;
  int64_t size;
  float eps;
};

struct SiluMulCall {
  const void* rows;  // [T, 2 * size]: gates, then factors
  void* out;         // [T, size], rows `out_stride` apart
  int64_t size;
  int64_t out_stride;
};

// Heads of one kind, strides in numbers; `out` may be `heads`.
struct HeadRows {
  const void* heads;  // [T, num_heads, head_dim]
  void* out;          // null for the cache
  int64_t token_stride, head_stride;
  int64_t out_token_stride, out_head_stride;
  int64_t num_heads;
  const void* weight;  // [head_dim] or null: no norm
};

// Norm, rotation and, where `slots` is given, the place of keys and values in the cache.
struct RopeCall {
  HeadRows query, key;
  const void* value;  // [T, num_kv_heads, head_dim]; unused without slots
  int64_t value_token_stride, value_head_stride;
  int64_t head_dim;
  const int64_t* positions;  // [T]
  const float* cos_sin;      // [positions, rotated]
  int64_t rotated;           // channels that are rotated, even
  const int64_t* slots;      // [T] or null; negative: not written
  CacheSide keys, values;
  int64_t block_size;
  float eps;
  int32_t cache_format;
};

// New keys or values, strides in numbers, channels side by side.
struct WriteCall {
  const void* heads;  // [T, num_heads, head_dim]
  int64_t token_stride, head_stride;
  int64_t num_heads, head_dim;
  const int64_t* slots;  // [T]; negative: not written
  CacheSide side;
  int64_t block_size;
  int32_t cache_format;
};

// The widest head that is normalised and rotated in one piece of the stack.
constexpr int64_t kMaxHeadDim = 1024;

template <typename Call>
using RowFunction = void (*)(const Call&, int64_t begin, int64_t end);

struct RowFunctions {
  RowFunction<NormCall> norm;
  RowFunction<SiluMulCall> silu_mul;
  RowFunction<RopeCall> rope;    // tokens
  RowFunction<WriteCall> write;  // tokens
};

// One entry for each Dtype.
extern const RowFunctions kRowsScalar[kNumDtypes];
extern const RowFunctions kRowsAvx2[kNumDtypes];
extern const RowFunctions kRowsAvx512[kNumDtypes];

// The functions of the current instruction set.
const RowFunctions& row_functions(Dtype dtype);

}  // namespace windlass

extern "C" {
// All return a `Status`.
WINDLASS_EXPORT int windlass_rms_norm(const windlass::NormCall*, int64_t rows, int32_t dtype);
WINDLASS_EXPORT int windlass_silu_mul(const windlass::SiluMulCall*, int64_t rows, int32_t dtype);
WINDLASS_EXPORT int windlass_rope(const windlass::RopeCall*, int64_t tokens, int32_t dtype);
WINDLASS_EXPORT int windlass_write_slots(const windlass::WriteCall*, int64_t tokens,
                                         int32_t dtype);
}
