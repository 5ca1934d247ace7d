// What stands between stored numbers and keys or values: nothing, a constant, or a scale of each
// token. It never meets a number by itself: scores are multiplied with it, and weights.
#pragma once

#include "attention_rows.h"
#include "vector_bytes.h"

namespace windlass {
namespace {

// Scales of neighbouring tokens, of int8 only.
struct TokenScales {
  float* keys;
  float* values;
};

// Scores or weights of kLanes tokens as those of what the stored numbers mean.
template <typename Stored>
inline Floats scaled(Floats products, const float* scales) {
  if constexpr (std::is_same<Stored, Int8>::value) return products * load(scales);
  if constexpr (std::is_same<Stored, Float8>::value) return products * kFloat8Unit;
  return products;
}

// Writes the scales of `count` tokens from `first` on, both multiples of kLanes; zeros outside
// [begin, end), whatever lies there.
inline void gather_scales(const CacheRows<float>& scales, int64_t first, int64_t count,
                          int64_t begin, int64_t end, float* to) {
  for (int64_t t = 0; t < count; t += kLanes) {
    const int64_t token = first + t;
    Floats found = {};
    if (token < end && token + kLanes > begin) {
      const float* const row = scales.row(token);
      if (scales.token_stride == 1) {
        found = load(row);
      } else {
        for (int i = 0; i < kLanes; ++i) found[i] = row[i * scales.token_stride];
      }
    }
    if (token < begin || token + kLanes > end) {
      const Ints lanes = lane_numbers() + static_cast<int32_t>(token);
      found = lanes >= broadcast(static_cast<int32_t>(begin)) ? found : Floats{};
      found = lanes < broadcast(static_cast<int32_t>(end)) ? found : Floats{};
    }
    store(to + t, found);
  }
}

// The scales of the keys and values that one task sees.
template <typename Stored>
struct TaskScales {
  explicit TaskScales(const AttentionWork&) {}
  void gather(int64_t, int64_t, const TokenScales&) const {}
};

template <>
struct TaskScales<Int8> {
  CacheRows<float> keys, values;
  int64_t begin, end;

  explicit TaskScales(const AttentionWork& work)
      : keys(*work.shape, *work.tile, work.call->key_scales, work.shape->key_scales),
        values(*work.shape, *work.tile, work.call->value_scales, work.shape->value_scales),
        begin(work.task->key_begin),
        end(work.task->key_end) {}

  void gather(int64_t first, int64_t count, const TokenScales& to) const {
    gather_scales(keys, first, count, begin, end, to.keys);
    gather_scales(values, first, count, begin, end, to.values);
  }
};

}  // namespace
}  // namespace windlass
