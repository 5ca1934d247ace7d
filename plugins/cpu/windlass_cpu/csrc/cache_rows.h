// The write of keys and values into their slots: copied, or rounded to a byte each.
#pragma once

#include "norm_rows.h"
#include "vector_bytes.h"

namespace windlass {
namespace {

// A magnitude below which numbers count as zero: its inverse times 127 is still finite.
constexpr float kSmallestMagnitude = 1e-35f;

// Int8 with the largest magnitude at 127. The scale is NaN where a number is not finite.
template <typename T>
void round_head(const T* from, int64_t head_dim, Int8* to, float* scale) {
  Floats largest = {}, poison = {};
  for_vectors(head_dim, [&](int64_t d, auto partial, int count) {
    const Floats x = load_vector(from + d, partial, count);
    largest = maximum(maximum(x, -x), largest);
    poison += x * 0.0f;
  });
  const float magnitude = largest_lane(largest);
  const float inverse = magnitude > kSmallestMagnitude ? 127.0f / magnitude : 0.0f;
  *scale = magnitude / 127.0f + sum_of_lanes(poison);
  for_vectors(head_dim, [&](int64_t d, auto partial, int count) {
    store(to + d, load_vector(from + d, partial, count) * inverse, count);
  });
}

template <typename T>
void round_head(const T* from, int64_t head_dim, Float8* to, float*) {
  for_vectors(head_dim, [&](int64_t d, auto partial, int count) {
    store(to + d, load_vector(from + d, partial, count), count);
  });
}

// Where one token's keys or values lie in the cache.
class CacheSlot {
 public:
  CacheSlot(const CacheSide& side, int64_t block_size, int64_t slot)
      : numbers_(side.numbers),
        scales_(side.scales),
        place_(slot / block_size * side.strides.block + slot % block_size * side.strides.token),
        scale_place_(slot / block_size * side.scale_strides.block +
                     slot % block_size * side.scale_strides.token),
        head_stride_(side.strides.head),
        scale_head_stride_(side.scale_strides.head) {}

  template <typename Stored>
  Stored* head(int64_t number) const {
    return static_cast<Stored*>(numbers_) + place_ + number * head_stride_;
  }

  template <typename T>
  void write(CacheFormat format, int64_t number, const T* from, int64_t head_dim) const {
    switch (format) {
      case CacheFormat::kSame:
        std::memcpy(head<T>(number), from, head_dim * sizeof(T));
        break;
      case CacheFormat::kInt8:
        round_head(from, head_dim, head<Int8>(number),
                   scales_ + scale_place_ + number * scale_head_stride_);
        break;
      case CacheFormat::kFloat8:
        round_head(from, head_dim, head<Float8>(number), nullptr);
        break;
    }
  }

 private:
  void* numbers_;
  float* scales_;
  int64_t place_, scale_place_;
  int64_t head_stride_, scale_head_stride_;
};

template <typename T>
void write_rows(const WriteCall& call, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    if (call.slots[token] < 0) continue;
    const CacheSlot slot(call.side, call.block_size, call.slots[token]);
    const T* const from = static_cast<const T*>(call.heads) + token * call.token_stride;
    for (int64_t h = 0; h < call.num_heads; ++h) {
      slot.write(static_cast<CacheFormat>(call.cache_format), h, from + h * call.head_stride,
                 call.head_dim);
    }
  }
}

}  // namespace
}  // namespace windlass
