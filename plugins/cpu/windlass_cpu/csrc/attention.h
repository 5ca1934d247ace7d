// Paged attention: what crosses the C boundary, the step's plan, and the kernels of one
// instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "isa.h"

namespace windlass {

// Number formats of activations.
enum class Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
constexpr int kNumDtypes = 3;

// Number formats of keys and values in the cache: that of activations, int8 with a float32 scale
// for each token and head, fp8 (e4m3fn).
enum class CacheFormat : int32_t { kSame = 0, kInt8 = 1, kFloat8 = 2 };
constexpr int kNumFormats = 3;

// Keys or values of all layers: strides in numbers. A channel's neighbour lies beside it.
struct CacheStrides {
  int64_t block, token, head;
};

// Keys or values of one layer, and their scales (of int8 only).
struct CacheSide {
  void* numbers;
  float* scales;
  CacheStrides strides, scale_strides;
};

// What all layers of a step with the same window share.
struct AttentionShape {
  const int32_t* cu_seqlens_q;  // [R + 1]
  const int32_t* seq_lens;      // [R]
  const int32_t* block_table;   // [R, max_blocks]
  int64_t block_table_stride;
  int64_t num_requests;
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t block_size;  // a multiple of kBlockMultiple
  int64_t window;      // 0: all keys; counts the query itself
  CacheStrides keys, values;
  CacheStrides key_scales, value_scales;
  int32_t dtype;
  int32_t cache_format;
};

// What differs from layer to layer.
struct AttentionCall {
  const void* query;  // [T, Hq, D], strides in numbers, the channels side by side
  void* out;          // as query
  const void* keys;
  const void* values;
  const float* key_scales;    // of int8 only
  const float* value_scales;
  float* lse;          // [T, Hq] or null
  const float* sinks;  // [Hq] or null
  int64_t query_token_stride, query_head_stride;
  int64_t out_token_stride, out_head_stride;
  float scale;
  float softcap;  // 0: off
};

constexpr int64_t kBlockMultiple = 16;

// Neighbouring queries of one request with all query heads of one key-value head: the rows that
// share a read of keys and values. Row r is query r / group, head r % group.
struct AttentionTile {
  int32_t request, kv_head;
  int32_t query_begin, query_count;  // within the request
  int32_t num_splits;
  int64_t partial_row;  // of the first split, when there are several
};

// The keys in [key_begin, key_end) for one tile.
struct AttentionTask {
  int32_t tile, split;
  int32_t key_begin, key_end;
};

// Results of tiles whose keys were split: unnormalised sums, to be merged.
struct Partials {
  std::unique_ptr<float[]> sums;          // [rows, head_dim]
  std::unique_ptr<float[]> maxima;        // [rows]
  std::unique_ptr<float[]> denominators;  // [rows]
};

struct AttentionPlan {
  AttentionShape shape;
  int64_t group;  // query heads of a key-value head
  std::vector<AttentionTile> tiles;
  std::vector<AttentionTask> tasks;   // most expensive first
  std::vector<int32_t> split_tiles;   // numbers of the tiles that need a merge
  Partials partials;
  double cost;

  int64_t rows(const AttentionTile& tile) const { return tile.query_count * group; }
};

// One unit of work of a plan.
struct AttentionWork {
  const AttentionShape* shape;
  const AttentionCall* call;
  const AttentionTile* tile;
  const AttentionTask* task;  // null for a merge
  const Partials* partials;
  int64_t group;
  // What this thread will probably do next, null at the end.
  const AttentionTile* next_tile;
  const AttentionTask* next_task;
};

using AttentionFunction = void (*)(const AttentionWork&);

struct AttentionFunctions {
  AttentionFunction decode;   // a task of a tile with one query
  AttentionFunction prefill;  // a task of any tile
  AttentionFunction merge;    // the splits of a tile
};

// One entry for each CacheFormat.
struct AttentionFormats {
  AttentionFunctions of_format[kNumFormats];
};
// One entry for each Dtype.
struct AttentionTable {
  AttentionFormats of_dtype[kNumDtypes];
};

extern const AttentionTable kAttentionScalar;
extern const AttentionTable kAttentionAvx2;
extern const AttentionTable kAttentionAvx512;
// Of bfloat16 only.
extern const AttentionFormats kAttentionAvx512Bf16;

std::unique_ptr<AttentionPlan> plan_attention(const AttentionShape& shape, int num_threads);

}  // namespace windlass

extern "C" {
// Cuts a step into tasks for the current number of threads. The tensors of the shape must outlive
// the plan. Null: out of memory.
WINDLASS_EXPORT windlass::AttentionPlan* windlass_attention_plan(const windlass::AttentionShape*);
WINDLASS_EXPORT void windlass_attention_free(windlass::AttentionPlan*);
// Returns a `Status`.
WINDLASS_EXPORT int windlass_attention_run(windlass::AttentionPlan*,
                                           const windlass::AttentionCall*);
// For tests: bfloat16 dot products where the processor has them (1), never (0), where they are
// faster (-1, the default).
WINDLASS_EXPORT void windlass_attention_use_pairs(int choice);
}
