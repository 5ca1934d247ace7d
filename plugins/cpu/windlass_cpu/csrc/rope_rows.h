// Head norm, rotary position embedding (Su et al., 2021; halves against each other) and the write
// of keys and values, in one pass over a token's heads.
#pragma once

#include "cache_rows.h"

namespace windlass {
namespace {

// One head in float32; what lies beyond its channels is never stored.
struct HeadBuffer {
  alignas(64) float numbers[kMaxHeadDim + kLanes];
};

template <typename T>
void load_head(const T* from, const T* weight, int64_t head_dim, float eps, HeadBuffer& head) {
  Floats squares = {};
  for_vectors(head_dim, [&](int64_t d, auto partial, int count) {
    const Floats x = load_vector(from + d, partial, count);
    store(head.numbers + d, x);
    squares += x * x;
  });
  if (weight == nullptr) return;
  const float scale = inverse_root(squares, head_dim, eps);
  for_vectors(head_dim, [&](int64_t d, auto partial, int count) {
    const Floats normed = rounded(T{}, load(head.numbers + d) * scale);
    const Floats x = rounded(T{}, load_vector(weight + d, partial, count) * normed);
    store(head.numbers + d, x);
  });
}

template <typename T>
void store_rotated(const HeadBuffer& head, const float* cos_sin, int64_t rotated, int64_t head_dim,
                   T* to) {
  const int64_t half = rotated / 2;
  for_vectors(half, [&](int64_t d, auto partial, int count) {
    const Floats cos = load_vector(cos_sin + d, partial, count);
    const Floats sin = load_vector(cos_sin + half + d, partial, count);
    const Floats first = load(head.numbers + d), second = load(head.numbers + half + d);
    store_vector(to + d, first * cos - second * sin, partial, count);
    store_vector(to + half + d, second * cos + first * sin, partial, count);
  });
  for_vectors(head_dim - rotated, [&](int64_t d, auto partial, int count) {
    store_vector(to + rotated + d, load(head.numbers + rotated + d), partial, count);
  });
}

template <typename T>
void rope_head(const RopeCall& call, const HeadRows& rows, int64_t token, int64_t number, T* to) {
  HeadBuffer head;
  const T* const from = static_cast<const T*>(rows.heads) + token * rows.token_stride +
                        number * rows.head_stride;
  load_head(from, static_cast<const T*>(rows.weight), call.head_dim, call.eps, head);
  const float* const cos_sin = call.cos_sin + call.positions[token] * call.rotated;
  store_rotated(head, cos_sin, call.rotated, call.head_dim, to);
}

template <typename T>
void rope_heads(const RopeCall& call, const HeadRows& rows, int64_t token) {
  T* const to = static_cast<T*>(rows.out) + token * rows.out_token_stride;
  for (int64_t h = 0; h < rows.num_heads; ++h) {
    rope_head(call, rows, token, h, to + h * rows.out_head_stride);
  }
}

template <typename T>
void write_slot(const RopeCall& call, int64_t token) {
  if (call.slots[token] < 0) return;
  const auto format = static_cast<CacheFormat>(call.cache_format);
  const CacheSlot keys(call.keys, call.block_size, call.slots[token]);
  const CacheSlot values(call.values, call.block_size, call.slots[token]);
  const T* const from = static_cast<const T*>(call.value) + token * call.value_token_stride;
  for (int64_t h = 0; h < call.key.num_heads; ++h) {
    if (format == CacheFormat::kSame) {
      rope_head(call, call.key, token, h, keys.template head<T>(h));
    } else {
      T rotated[kMaxHeadDim];
      rope_head(call, call.key, token, h, rotated);
      keys.write(format, h, rotated, call.head_dim);
    }
    values.write(format, h, from + h * call.value_head_stride, call.head_dim);
  }
}

template <typename T>
void rope_tokens(const RopeCall& call, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    rope_heads<T>(call, call.query, token);
    if (call.slots != nullptr) {
      write_slot<T>(call, token);
    } else {
      rope_heads<T>(call, call.key, token);
    }
  }
}

}  // namespace
}  // namespace windlass
