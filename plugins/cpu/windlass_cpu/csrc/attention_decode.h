// Attention of one query: all heads of a group share one read of keys and values.
//
// Chunk by chunk of keys: the scores of all heads, their softmax, then the weighted sum of values,
// whose accumulators stay in registers over the whole chunk (online softmax: Milakov and
// Gimelshein, 2018).
#pragma once

#include <type_traits>

#include "attention_product.h"
#include "attention_rows.h"
#include "attention_scales.h"

namespace windlass {
namespace {

constexpr int kScoreTokens = static_cast<int>(kBlockMultiple);
constexpr int64_t kChunk = 128;

// Scratch of one task. Rows of queries are zero beyond the head's channels, rows of scores and
// weights hold a chunk.
template <typename P>
struct DecodeScratch {
  int64_t depth;  // units of a query
  int64_t width;  // channels of a sum
  typename P::Unit* queries;
  float* scores;
  typename P::Weight* weights;
  float* sums;
  RowState* states;
  float* decays;  // what the chunk's new maximum makes of earlier sums
  TokenScales scales;

  static constexpr int64_t kScoreStride = kChunk;
  static constexpr int64_t kWeightStride = kChunk + 16;

  DecodeScratch(int64_t group, int64_t head_dim)
      : depth(round_up(head_dim, kStepChannels) / P::kNumbers),
        width(round_up(head_dim, kStepChannels)) {
    using Unit = typename P::Unit;
    using Weight = typename P::Weight;
    const int64_t bytes =
        Carver::bytes<Unit>(group * depth) + Carver::bytes<float>(group * kScoreStride) +
        Carver::bytes<Weight>(group * kWeightStride) + Carver::bytes<float>(group * width) +
        Carver::bytes<RowState>(group) + Carver::bytes<float>(group) +
        2 * Carver::bytes<float>(kChunk);
    Carver carver(thread_scratch(bytes));
    queries = carver.template take<Unit>(group * depth);
    scores = carver.template take<float>(group * kScoreStride);
    weights = carver.template take<Weight>(group * kWeightStride);
    sums = carver.template take<float>(group * width);
    states = carver.template take<RowState>(group);
    decays = carver.template take<float>(group);
    scales.keys = carver.template take<float>(kChunk);
    scales.values = carver.template take<float>(kChunk);
  }
};

// Scores of kScoreTokens keys with kHeads queries, tiles of as many sums as a vector has lanes.
// What is needed next, rows from `ahead` on, is asked for on the way.
template <typename P, int kHeads>
void score_keys(const typename P::Stored* keys, int64_t token_stride, int64_t head_dim,
                const typename P::Unit* queries, int64_t depth, float* scores,
                const typename P::Stored* ahead, int64_t ahead_stride) {
  constexpr int kTokens = kLanes / kHeads;
  for (int token = 0; token < kScoreTokens; token += kTokens) {
    const typename P::Stored* const rows = keys + token * token_stride;
    const typename P::Stored* const next = ahead + token * ahead_stride;
    Floats sums[kLanes] = {};
    const auto add = [&](int64_t d, auto load_key) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        if (starts_line<typename P::Stored>(d)) __builtin_prefetch(next + t * ahead_stride + d);
        typename P::Vector key[P::kVectors];
        load_key(rows + t * token_stride + d, key);
#pragma GCC unroll 16
        for (int h = 0; h < kHeads; ++h) {
          const auto* const query = queries + h * depth + d / P::kNumbers;
#pragma GCC unroll 16
          for (int v = 0; v < P::kVectors; ++v) {
            Floats& sum = sums[h * kTokens + t];
            sum = P::multiply_add(P::load_units(query + v * kLanes), key[v], sum);
          }
        }
      }
    };
    int64_t d = 0;
    for (; d + kStepChannels <= head_dim; d += kStepChannels) {
      add(d, [](const auto* from, auto& key) { P::load(from, key); });
    }
    if (d < head_dim) {
      const int rest = static_cast<int>(head_dim - d);
      add(d, [rest](const auto* from, auto& key) { P::load(from, rest, key); });
    }
    const Floats result = row_sums(sums);
#pragma GCC unroll 16
    for (int h = 0; h < kHeads; ++h) {
      const float* const of_head = reinterpret_cast<const float*>(&result) + h * kTokens;
      std::memcpy(scores + h * kChunk + token, of_head, kTokens * sizeof(float));
    }
  }
}

// Turns a row of `count` scores into weights, of which those in [begin, end) are not zero; returns
// what earlier sums must be multiplied with.
template <typename P>
float soften_row(const AttentionCall& call, float* scores, typename P::Weight* weights,
                 const TokenScales& scales, int64_t count, int64_t begin, int64_t end,
                 RowState& state) {
  Floats largest = broadcast(kMinusInfinity);
  for (int64_t t = 0; t < count; t += kLanes) {
    const Floats products = scaled<typename P::Stored>(load(scores + t), scales.keys + t);
    const Floats score = visible_scores(call, products, begin - t, end - t);
    store(scores + t, score);
    largest = maximum(score, largest);
  }
  const float before = state.maximum;
  const float chunk_maximum = largest_lane(largest);
  state.maximum = chunk_maximum > before ? chunk_maximum : before;
  Floats total = {};
  for (int64_t t = 0; t < count; t += kLanes) {
    const Floats weight = exponential(load(scores + t) - state.maximum);
    P::store_weights(weights + t, scaled<typename P::Stored>(weight, scales.values + t));
    total += weight;
  }
  const float decay = __builtin_expf(before - state.maximum);
  state.denominator = state.denominator * decay + sum_of_lanes(total);
  return decay;
}

// The values of the tokens [begin, end), the token of the first weight, and the keys that are
// needed next: fetched on the way.
template <typename T>
struct ChunkValues {
  CacheRows<T> rows;
  int64_t begin, end, chunk;
  CacheRows<T> next_keys;
  int64_t next_begin, next_end;

  const T* ahead(int64_t token) const {
    const int64_t next = next_begin + token - begin;
    return next < next_end ? next_keys.row(next) : rows.row(token);
  }
};

// Adds the weighted values to kPairs * kStepChannels channels of kHeads sums.
template <typename P, int kHeads, int kPairs, bool kPartial>
void add_values(const ChunkValues<typename P::Stored>& values, int64_t channel, int channels,
                const DecodeScratch<P>& scratch, int64_t head) {
  const int64_t token_stride = values.rows.token_stride;
  Floats sums[kHeads][2 * kPairs] = {};
  const typename P::Weight* const weights =
      scratch.weights + head * scratch.kWeightStride - values.chunk;
  const auto add = [&](const typename P::Stored* row, const typename P::Stored* next,
                       int64_t token, bool both) __attribute__((always_inline)) {
    typename P::Vector value[kPairs][2];
#pragma GCC unroll 16
    for (int j = 0; j < kPairs; ++j) {
      const auto* from = row + j * kStepChannels;
      if (starts_line<typename P::Stored>(j * kStepChannels)) {
#pragma GCC unroll 2
        for (int n = 0; n < P::kNumbers; ++n) {
          __builtin_prefetch(next + j * kStepChannels + n * token_stride);
        }
      }
      if constexpr (kPartial) {
        P::load_values(from, token_stride, both, value[j], channels);
      } else {
        P::load_values(from, token_stride, both, value[j]);
      }
    }
#pragma GCC unroll 16
    for (int h = 0; h < kHeads; ++h) {
      const auto weight = P::broadcast_unit(weights + h * scratch.kWeightStride + token);
#pragma GCC unroll 16
      for (int j = 0; j < 2 * kPairs; ++j) {
        sums[h][j] = P::multiply_add(weight, value[j / 2][j % 2], sums[h][j]);
      }
    }
  };
  for (int64_t token = values.begin; token < values.end;) {
    const int64_t block_size = values.rows.block_size;
    const int64_t block_end = (token / block_size + 1) * block_size;
    const int64_t stop = block_end < values.end ? block_end : values.end;
    const typename P::Stored* row = values.rows.row(token) + channel;
    const typename P::Stored* next = values.ahead(token) + channel;
    for (; token + P::kNumbers <= stop; token += P::kNumbers) {
      add(row, next, token, true);
      row += P::kNumbers * token_stride;
      next += P::kNumbers * token_stride;
    }
    if (token < stop) add(row, next, token++, false);
  }
#pragma GCC unroll 16
  for (int h = 0; h < kHeads; ++h) {
    float* const to = scratch.sums + (head + h) * scratch.width + channel;
#pragma GCC unroll 16
    for (int j = 0; j < kPairs; ++j) {
      P::restore_order(sums[h][2 * j], sums[h][2 * j + 1]);
      float* const pair = to + j * kStepChannels;
      store(pair, load(pair) * scratch.decays[head + h] + sums[h][2 * j]);
      store(pair + kLanes, load(pair + kLanes) * scratch.decays[head + h] + sums[h][2 * j + 1]);
    }
  }
}

// The widest tile of sums that leaves registers for values and weights.
template <int kHeads>
constexpr int wide_pairs() {
  constexpr int vectors = (kLanes == 16 ? 16 : 8) / kHeads;
  return vectors >= 8 ? 4 : vectors / 2;
}

template <typename P, int kHeads>
void add_all_channels(const ChunkValues<typename P::Stored>& values, int64_t head_dim,
                      const DecodeScratch<P>& scratch, int64_t head) {
  constexpr int kWide = wide_pairs<kHeads>();
  int64_t d = 0;
  for (; d + kWide * kStepChannels <= head_dim; d += kWide * kStepChannels) {
    add_values<P, kHeads, kWide, false>(values, d, 0, scratch, head);
  }
  for (; d + kStepChannels <= head_dim; d += kStepChannels) {
    add_values<P, kHeads, 1, false>(values, d, 0, scratch, head);
  }
  if (d < head_dim) {
    add_values<P, kHeads, 1, true>(values, d, static_cast<int>(head_dim - d), scratch, head);
  }
}

// Calls body(first head, constant number of heads) for fours, then twos, then ones.
template <typename Body>
void for_heads(int64_t group, const Body& body) {
  int64_t head = 0;
  for (; head + 4 <= group; head += 4) body(head, std::integral_constant<int, 4>());
  for (; head + 2 <= group; head += 2) body(head, std::integral_constant<int, 2>());
  if (head < group) body(head, std::integral_constant<int, 1>());
}

template <typename P>
void load_queries(const AttentionWork& work, const DecodeScratch<P>& scratch) {
  const int64_t head_dim = work.shape->head_dim;
  for (int64_t h = 0; h < work.group; ++h) {
    pack_row<P>(query_row<typename P::Number>(work, h), head_dim,
                scratch.queries + h * scratch.depth);
    for (int64_t d = 0; d < scratch.width; ++d) scratch.sums[h * scratch.width + d] = 0;
    scratch.states[h] = RowState();
  }
}

// The keys from the chunk's token on, whose values are `values`.
template <typename P>
void decode_chunk(const AttentionWork& work, const DecodeScratch<P>& scratch,
                  const CacheRows<typename P::Stored>& keys,
                  const ChunkValues<typename P::Stored>& values,
                  const TaskScales<typename P::Stored>& scales) {
  const int64_t head_dim = work.shape->head_dim, chunk = values.chunk;
  const int64_t count = round_up(values.end - chunk, kScoreTokens);
  scales.gather(chunk, count, scratch.scales);
  for (int64_t t = 0; t < count; t += kScoreTokens) {
    const auto* const rows = keys.row(chunk + t);
    const auto* const ahead = values.rows.row(chunk + t);
    for_heads(work.group, [&](int64_t head, auto heads) {
      score_keys<P, heads.value>(rows, keys.token_stride, head_dim,
                                 scratch.queries + head * scratch.depth, scratch.depth,
                                 scratch.scores + head * scratch.kScoreStride + t, ahead,
                                 values.rows.token_stride);
    });
  }
  for (int64_t h = 0; h < work.group; ++h) {
    auto* const weights = scratch.weights + h * scratch.kWeightStride;
    scratch.decays[h] =
        soften_row<P>(*work.call, scratch.scores + h * scratch.kScoreStride, weights,
                      scratch.scales, count, values.begin - chunk, values.end - chunk,
                      scratch.states[h]);
    weights[count] = typename P::Weight{};
  }
  for_heads(work.group, [&](int64_t head, auto heads) {
    add_all_channels<P, heads.value>(values, head_dim, scratch, head);
  });
}

template <typename P>
void decode_task(const AttentionWork& work) {
  using Stored = typename P::Stored;
  const AttentionShape& shape = *work.shape;
  const AttentionTask& task = *work.task;
  const DecodeScratch<P> scratch(work.group, shape.head_dim);
  const CacheRows<Stored> keys(shape, *work.tile, work.call->keys, shape.keys);
  const CacheRows<Stored> all_values(shape, *work.tile, work.call->values, shape.values);
  const TaskScales<Stored> scales(work);
  load_queries<P>(work, scratch);
  for (int64_t begin = task.key_begin; begin < task.key_end;) {
    const int64_t chunk = begin / kScoreTokens * kScoreTokens;
    const int64_t end = chunk + kChunk < task.key_end ? chunk + kChunk : task.key_end;
    ChunkValues<Stored> values{all_values, begin, end, chunk, keys, end, task.key_end};
    if (end == task.key_end && work.next_task != nullptr) {
      values.next_keys = CacheRows<Stored>(shape, *work.next_tile, work.call->keys, shape.keys);
      values.next_begin = work.next_task->key_begin;
      values.next_end = work.next_task->key_end;
    }
    decode_chunk<P>(work, scratch, keys, values, scales);
    begin = end;
  }
  for (int64_t h = 0; h < work.group; ++h) {
    finish_row<typename P::Number>(work, h, scratch.sums + h * scratch.width, scratch.states[h]);
  }
}

}  // namespace
}  // namespace windlass
