// What decode and prefill share: where a token's numbers lie, and how a row's result is finished.
#pragma once

#include "attention.h"
#include "attention_product.h"
#include "scratch.h"
#include "vector.h"

namespace windlass {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Whether channel d begins a cache line of a row that begins one.
template <typename T>
inline bool starts_line(int64_t d) {
  constexpr int64_t kNumbers = 64 / sizeof(T);
  return d % kNumbers == 0;
}

// Hands out parts of a thread's scratch memory, 64-byte aligned.
class Carver {
 public:
  explicit Carver(void* memory) : next_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(int64_t count) {
    T* const part = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(count);
    return part;
  }
  template <typename T>
  static int64_t bytes(int64_t count) {
    return round_up(count * static_cast<int64_t>(sizeof(T)), 64);
  }

 private:
  char* next_;
};

// The cache as one tile sees it: the keys or values of one request and one head.
template <typename T>
struct CacheRows {
  const T* head;
  const int32_t* blocks;
  int64_t block_size, block_stride, token_stride;

  CacheRows(const AttentionShape& shape, const AttentionTile& tile, const void* cache,
            const CacheStrides& strides)
      : head(static_cast<const T*>(cache) + tile.kv_head * strides.head),
        blocks(shape.block_table + tile.request * shape.block_table_stride),
        block_size(shape.block_size),
        block_stride(strides.block),
        token_stride(strides.token) {}

  // The next kBlockMultiple - token % kBlockMultiple tokens follow at token_stride.
  const T* row(int64_t token) const {
    return head + blocks[token / block_size] * block_stride + token % block_size * token_stride;
  }
};

// Where a tile's row stands in the step: its token and query head.
struct RowPlace {
  int64_t token, head;

  RowPlace(const AttentionWork& work, int64_t row) {
    const AttentionTile& tile = *work.tile;
    const int64_t query = row / work.group;
    token = work.shape->cu_seqlens_q[tile.request] + tile.query_begin + query;
    head = tile.kv_head * work.group + row - query * work.group;
  }
};

template <typename T>
inline const T* query_row(const AttentionWork& work, int64_t row) {
  const RowPlace place(work, row);
  return static_cast<const T*>(work.call->query) + place.token * work.call->query_token_stride +
         place.head * work.call->query_head_stride;
}

// Units of one row of queries, zeros beyond the last channel.
template <typename P>
inline void pack_row(const typename P::Number* from, int64_t head_dim, typename P::Unit* to) {
  for (int64_t d = 0; d < head_dim; d += kStepChannels) {
    const int64_t rest = head_dim - d;
    typename P::Vector units[P::kVectors];
    if (rest >= kStepChannels) {
      P::load_query(from + d, units);
    } else {
      P::load_query(from + d, units, static_cast<int>(rest));
    }
    std::memcpy(to + d / P::kNumbers, units, sizeof(units));
  }
}

// Scaled and capped products of a query with kLanes keys, minus infinity outside [begin, end).
inline Floats visible_scores(const AttentionCall& call, Floats products, int64_t begin,
                             int64_t end) {
  Floats scores = products * call.scale;
  if (call.softcap != 0) scores = call.softcap * hyperbolic_tangent(scores / call.softcap);
  if (begin <= 0 && end >= kLanes) return scores;
  const Ints lanes = lane_numbers();
  const Ints first = broadcast(static_cast<int32_t>(begin));
  const Ints last = broadcast(static_cast<int32_t>(end));
  scores = lanes >= first ? scores : broadcast(kMinusInfinity);
  return lanes < last ? scores : broadcast(kMinusInfinity);
}

// The running softmax of a row: sums of values stand elsewhere, scaled like `denominator`.
struct RowState {
  float maximum = kMinusInfinity;
  float denominator = 0;
};

// Normalises the sums of a row that has seen all its keys, and writes it out.
template <typename T>
void write_row(const AttentionWork& work, int64_t row, const float* sums, RowState state) {
  const AttentionCall& call = *work.call;
  const RowPlace place(work, row);
  float scale = 1;
  if (call.sinks != nullptr) {
    const float sink = call.sinks[place.head];
    const float largest = sink > state.maximum ? sink : state.maximum;
    scale = __builtin_expf(state.maximum - largest);
    state.denominator = state.denominator * scale + __builtin_expf(sink - largest);
    state.maximum = largest;
  }
  scale /= state.denominator;
  T* const out = static_cast<T*>(call.out) + place.token * call.out_token_stride +
                 place.head * call.out_head_stride;
  const int64_t head_dim = work.shape->head_dim;
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(out + d, load(sums + d) * scale);
  if (d < head_dim) {
    const int rest = static_cast<int>(head_dim - d);
    store(out + d, load(sums + d, rest) * scale, rest);
  }
  if (call.lse != nullptr) {
    call.lse[place.token * work.shape->num_heads + place.head] =
        state.maximum + __builtin_logf(state.denominator);
  }
}

// Writes a row out, or leaves it to a merge where the tile's keys are split.
template <typename T>
void finish_row(const AttentionWork& work, int64_t row, const float* sums, RowState state) {
  const AttentionTile& tile = *work.tile;
  if (tile.num_splits == 1) return write_row<T>(work, row, sums, state);
  const int64_t rows = tile.query_count * work.group;
  const int64_t place = tile.partial_row + work.task->split * rows + row;
  const int64_t head_dim = work.shape->head_dim;
  std::memcpy(work.partials->sums.get() + place * head_dim, sums, head_dim * sizeof(float));
  work.partials->maxima[place] = state.maximum;
  work.partials->denominators[place] = state.denominator;
}

// Adds up a row's splits: each counts e^(its maximum - the largest).
template <typename T>
void merge_row(const AttentionWork& work, int64_t row, float* sums) {
  const AttentionTile& tile = *work.tile;
  const int64_t rows = tile.query_count * work.group, head_dim = work.shape->head_dim;
  RowState state;
  for (int64_t split = 0; split < tile.num_splits; ++split) {
    const float other = work.partials->maxima[tile.partial_row + split * rows + row];
    if (other > state.maximum) state.maximum = other;
  }
  for (int64_t d = 0; d < head_dim; ++d) sums[d] = 0;
  for (int64_t split = 0; split < tile.num_splits; ++split) {
    const int64_t place = tile.partial_row + split * rows + row;
    const float factor = __builtin_expf(work.partials->maxima[place] - state.maximum);
    const float* part = work.partials->sums.get() + place * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) sums[d] += part[d] * factor;
    state.denominator += work.partials->denominators[place] * factor;
  }
  write_row<T>(work, row, sums, state);
}

template <typename T>
void merge_splits(const AttentionWork& work) {
  auto* const sums = static_cast<float*>(
      thread_scratch(Carver::bytes<float>(work.shape->head_dim)));
  const int64_t rows = work.tile->query_count * work.group;
  for (int64_t row = 0; row < rows; ++row) merge_row<T>(work, row, sums);
}

}  // namespace
}  // namespace windlass
