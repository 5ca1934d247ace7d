// Attention of a tile of neighbouring queries: two small matrix products a step of keys, with an
// online softmax between them (Dao et al., FlashAttention, 2022).
//
// Keys and values of a step are packed once, for all rows of the tile: the queries of all heads
// of a group.
#pragma once

#include "attention_product.h"
#include "attention_rows.h"
#include "attention_scales.h"

namespace windlass {
namespace {

// Keys of a step. A multiple of the widest product tile.
constexpr int kStepKeys = 64;

// The product tile: rows times vectors whose sums fill the registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

// Operands of one task, in units unless said. Rows are a multiple of kTileRows.
template <typename P>
struct PrefillScratch {
  using Unit = typename P::Unit;
  static constexpr int kStepUnits = kStepKeys / P::kNumbers;

  int64_t rows;
  int64_t depth;    // of a query
  int64_t width;    // channels of a sum
  Unit* queries;    // [rows, depth]
  Unit* keys;       // [depth, kStepKeys]
  Unit* values;     // [kStepUnits, width]
  Unit* weights;    // [rows, kStepUnits]
  float* scores;    // [rows, kStepKeys]
  float* sums;      // [rows, width]
  float* decays;    // [rows]
  RowState* states;  // [rows]
  TokenScales scales;

  PrefillScratch(int64_t tile_rows, int64_t head_dim)
      : rows(round_up(tile_rows, kTileRows)),
        depth(round_up(head_dim, kStepChannels) / P::kNumbers),
        width(round_up(head_dim, kStepChannels)) {
    const int64_t bytes = Carver::bytes<Unit>(rows * depth) +
                          Carver::bytes<Unit>(depth * kStepKeys) +
                          Carver::bytes<Unit>(kStepUnits * width) +
                          Carver::bytes<Unit>(rows * kStepUnits) +
                          Carver::bytes<float>(rows * kStepKeys) +
                          Carver::bytes<float>(rows * width) + Carver::bytes<float>(rows) +
                          Carver::bytes<RowState>(rows) + 2 * Carver::bytes<float>(kStepKeys);
    Carver carver(thread_scratch(bytes));
    queries = carver.template take<Unit>(rows * depth);
    keys = carver.template take<Unit>(depth * kStepKeys);
    values = carver.template take<Unit>(kStepUnits * width);
    weights = carver.template take<Unit>(rows * kStepUnits);
    scores = carver.template take<float>(rows * kStepKeys);
    sums = carver.template take<float>(rows * width);
    decays = carver.template take<float>(rows);
    states = carver.template take<RowState>(rows);
    scales.keys = carver.template take<float>(kStepKeys);
    scales.values = carver.template take<float>(kStepKeys);
  }
};

template <typename P>
void pack_queries(const AttentionWork& work, int64_t tile_rows, const PrefillScratch<P>& scratch) {
  for (int64_t row = 0; row < scratch.rows; ++row) {
    typename P::Unit* const to = scratch.queries + row * scratch.depth;
    if (row < tile_rows) {
      pack_row<P>(query_row<typename P::Number>(work, row), work.shape->head_dim, to);
    } else {
      std::memset(to, 0, scratch.depth * sizeof(*to));
    }
    for (int64_t d = 0; d < scratch.width; ++d) scratch.sums[row * scratch.width + d] = 0;
    scratch.states[row] = RowState();
  }
}

// Vector `kPart` of the units of kStepChannels channels of kLanes keys, transposed.
template <typename P, int kPart>
void transpose_keys(const typename P::Stored* const (&rows)[kLanes], int64_t d, int64_t rest,
                    typename P::Unit* to) {
  typename P::Vector square[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    typename P::Vector units[P::kVectors] = {};
    if (rows[i] == nullptr) {
      square[i] = typename P::Vector{};
      continue;
    }
    if (rest >= kStepChannels) {
      P::load(rows[i] + d, units);
    } else {
      P::load(rows[i] + d, static_cast<int>(rest), units);
    }
    square[i] = units[kPart];
  }
  transpose(square);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    std::memcpy(to + i * kStepKeys, &square[i], sizeof(square[i]));
  }
}

// Keys [step, step + kStepKeys) transposed; zeros outside [begin, end), whatever lies there.
template <typename P>
void pack_keys(const CacheRows<typename P::Stored>& keys, int64_t step, int64_t begin, int64_t end,
               int64_t head_dim, const PrefillScratch<P>& scratch) {
  for (int64_t group = 0; group < kStepKeys; group += kLanes) {
    const typename P::Stored* rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t token = step + group + i;
      rows[i] = token >= begin && token < end ? keys.row(token) : nullptr;
    }
    for (int64_t d = 0; d < head_dim; d += kStepChannels) {
      auto* const to = scratch.keys + d / P::kNumbers * kStepKeys + group;
      transpose_keys<P, 0>(rows, d, head_dim - d, to);
      if constexpr (P::kVectors == 2) {
        transpose_keys<P, 1>(rows, d, head_dim - d, to + kLanes * kStepKeys);
      }
    }
  }
}

template <typename P>
void pack_values(const CacheRows<typename P::Stored>& values, int64_t step, int64_t begin,
                 int64_t end, int64_t head_dim, const PrefillScratch<P>& scratch) {
  using Vector = typename P::Vector;
  for (int64_t unit = 0; unit < scratch.kStepUnits; ++unit) {
    typename P::Unit* const to = scratch.values + unit * scratch.width;
    // A pair of tokens never crosses a block; an odd `begin` or `end` leaves one of them out.
    const int64_t token = step + unit * P::kNumbers;
    const bool first = token >= begin && token < end;
    const bool second = token + 1 >= begin && token + 1 < end;
    const auto* const row = first || second ? values.row(token) : nullptr;
    for (int64_t d = 0; d < scratch.width; d += kStepChannels) {
      Vector pair[2] = {};
      if (row != nullptr) {
        const int64_t rest = head_dim - d;
        const int channels = static_cast<int>(rest < kStepChannels ? rest : kStepChannels);
        P::load_value_units(row + d, values.token_stride, first, second, channels, pair);
      }
      std::memcpy(to + d, pair, sizeof(pair));
    }
  }
}

// One tile of a product: sums = units of kTileRows rows times kVectors vectors, after what the
// sums held is multiplied with the rows' decays (or dropped, where there are none).
template <typename P, int kVectors>
void multiply_tile(const typename P::Unit* left, int64_t left_stride, const typename P::Unit* right,
                   int64_t right_stride, int64_t depth, const float* decays, float* out,
                   int64_t out_stride) {
  Floats sums[kTileRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      sums[i][j] = Floats{};
      if (decays != nullptr) sums[i][j] = load(out + i * out_stride + j * kLanes) * decays[i];
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename P::Vector columns[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      columns[j] = P::load_units(right + k * right_stride + j * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kTileRows; ++i) {
      const auto row = P::broadcast_unit(left + i * left_stride + k);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) {
        sums[i][j] = P::multiply_add(row, columns[j], sums[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(out + i * out_stride + j * kLanes, sums[i][j]);
  }
}

// `columns` is a multiple of kLanes. Tiles of the same columns follow each other: their right
// operand stays in the L1 cache.
template <typename P>
void multiply(const typename P::Unit* left, int64_t rows, int64_t left_stride,
              const typename P::Unit* right, int64_t columns, int64_t depth, const float* decays,
              float* out) {
  constexpr int64_t kWide = kTileVectors * kLanes;
  int64_t column = 0;
  const auto each_row = [&](auto tile) {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      tile(left + row * left_stride, left_stride, right + column, columns, depth,
           decays == nullptr ? nullptr : decays + row, out + row * columns + column, columns);
    }
  };
  for (; column + kWide <= columns; column += kWide) each_row(multiply_tile<P, kTileVectors>);
  for (; column < columns; column += kLanes) each_row(multiply_tile<P, 1>);
}

// Turns a row's scores of a step into weights, those in [begin, end) not zero; returns the decay.
template <typename P>
float soften_step(const AttentionCall& call, const float* scores, typename P::Weight* weights,
                  const TokenScales& scales, int64_t begin, int64_t end, RowState& state) {
  constexpr int kVectors = kStepKeys / kLanes;
  Floats row[kVectors], largest = broadcast(kMinusInfinity);
  for (int j = 0; j < kVectors; ++j) {
    const int t = j * kLanes;
    const Floats products = scaled<typename P::Stored>(load(scores + t), scales.keys + t);
    row[j] = visible_scores(call, products, begin - t, end - t);
    largest = maximum(row[j], largest);
  }
  const float before = state.maximum;
  const float step_maximum = largest_lane(largest);
  state.maximum = step_maximum > before ? step_maximum : before;
  Floats total = {};
  for (int j = 0; j < kVectors; ++j) {
    row[j] = exponential(row[j] - state.maximum);
    const int t = j * kLanes;
    P::store_weights(weights + t, scaled<typename P::Stored>(row[j], scales.values + t));
    total += row[j];
  }
  const float decay = exponential(broadcast(before - state.maximum))[0];
  state.denominator = state.denominator * decay + sum_of_lanes(total);
  return decay;
}

template <typename P>
void soften(const AttentionWork& work, int64_t tile_rows, int64_t step,
            const PrefillScratch<P>& scratch) {
  const AttentionShape& shape = *work.shape;
  const AttentionTile& tile = *work.tile;
  const int64_t queries =
      shape.cu_seqlens_q[tile.request + 1] - shape.cu_seqlens_q[tile.request];
  const int64_t first = shape.seq_lens[tile.request] - queries + tile.query_begin;
  const int64_t key_end = work.task->key_end - step;
  for (int64_t row = 0; row < scratch.rows; ++row) {
    auto* const weights =
        reinterpret_cast<typename P::Weight*>(scratch.weights + row * scratch.kStepUnits);
    const int64_t position = first + row / work.group;
    const int64_t begin = shape.window ? position - shape.window + 1 - step : -step;
    const int64_t seen = position + 1 - step;
    const int64_t end = seen < key_end ? seen : key_end;
    if (row >= tile_rows || begin >= kStepKeys || end <= 0 || end <= begin) {
      std::memset(weights, 0, scratch.kStepUnits * sizeof(typename P::Unit));
      scratch.decays[row] = 1;
      continue;
    }
    scratch.decays[row] = soften_step<P>(*work.call, scratch.scores + row * kStepKeys, weights,
                                         scratch.scales, begin, end, scratch.states[row]);
  }
}

template <typename P>
void prefill_task(const AttentionWork& work) {
  using Stored = typename P::Stored;
  const AttentionShape& shape = *work.shape;
  const int64_t tile_rows = work.tile->query_count * work.group;
  const PrefillScratch<P> scratch(tile_rows, shape.head_dim);
  const CacheRows<Stored> keys(shape, *work.tile, work.call->keys, shape.keys);
  const CacheRows<Stored> values(shape, *work.tile, work.call->values, shape.values);
  const TaskScales<Stored> scales(work);
  const int64_t begin = work.task->key_begin, end = work.task->key_end;
  pack_queries<P>(work, tile_rows, scratch);
  for (int64_t step = begin / kStepKeys * kStepKeys; step < end; step += kStepKeys) {
    pack_keys<P>(keys, step, begin, end, shape.head_dim, scratch);
    multiply<P>(scratch.queries, scratch.rows, scratch.depth, scratch.keys, kStepKeys,
                scratch.depth, nullptr, scratch.scores);
    scales.gather(step, kStepKeys, scratch.scales);
    soften<P>(work, tile_rows, step, scratch);
    pack_values<P>(values, step, begin, end, shape.head_dim, scratch);
    multiply<P>(scratch.weights, scratch.rows, scratch.kStepUnits, scratch.values, scratch.width,
                scratch.kStepUnits, scratch.decays, scratch.sums);
  }
  for (int64_t row = 0; row < tile_rows; ++row) {
    finish_row<typename P::Number>(work, row, scratch.sums + row * scratch.width, scratch.states[row]);
  }
}

}  // namespace
}  // namespace windlass
