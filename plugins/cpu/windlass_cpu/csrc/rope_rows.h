// Head norm, rotary position embedding (Su et al., 2021; halves against each other) and the write
// of keys and values, in one pass over a token's heads.
#pragma once

#include "norm_rows.h"

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
void rope_heads(const RopeCall& call, const HeadRows& rows, int64_t token, T* to,
                int64_t head_stride) {
  HeadBuffer head;
  const T* const from = static_cast<const T*>(rows.heads) + token * rows.token_stride;
  const float* const cos_sin = call.cos_sin + call.positions[token] * call.rotated;
  for (int64_t h = 0; h < rows.num_heads; ++h) {
    load_head(from + h * rows.head_stride, static_cast<const T*>(rows.weight), call.head_dim,
              call.eps, head);
    store_rotated(head, cos_sin, call.rotated, call.head_dim, to + h * head_stride);
  }
}

// The first head of a slot.
template <typename T>
T* slot_row(void* cache, const CacheStrides& strides, int64_t block_size, int64_t slot) {
  return static_cast<T*>(cache) + slot / block_size * strides.block +
         slot % block_size * strides.token;
}

template <typename T>
void write_slot(const RopeCall& call, int64_t token) {
  const int64_t slot = call.slots[token];
  if (slot < 0) return;
  T* const key = slot_row<T>(call.keys, call.key_strides, call.block_size, slot);
  rope_heads<T>(call, call.key, token, key, call.key_strides.head);
  T* const value = slot_row<T>(call.values, call.value_strides, call.block_size, slot);
  const T* const from = static_cast<const T*>(call.value) + token * call.value_token_stride;
  for (int64_t h = 0; h < call.key.num_heads; ++h) {
    std::memcpy(value + h * call.value_strides.head, from + h * call.value_head_stride,
                call.head_dim * sizeof(T));
  }
}

template <typename T>
void rope_tokens(const RopeCall& call, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    rope_heads<T>(call, call.query, token,
                  static_cast<T*>(call.query.out) + token * call.query.out_token_stride,
                  call.query.out_head_stride);
    if (call.slots != nullptr) {
      write_slot<T>(call, token);
    } else {
      rope_heads<T>(call, call.key, token,
                    static_cast<T*>(call.key.out) + token * call.key.out_token_stride,
                    call.key.out_head_stride);
    }
  }
}

}  // namespace
}  // namespace windlass
