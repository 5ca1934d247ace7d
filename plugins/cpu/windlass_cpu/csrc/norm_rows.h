// RMS norm (Zhang and Sennrich, 2019) in float32, rounded where the reference rounds: the
// normalised number, and its product with the weight.
#pragma once

#include <type_traits>

#include "rows.h"
#include "vector.h"

namespace windlass {
namespace {

// What is left of float32 numbers that are stored as T.
inline Floats rounded(float, Floats floats) { return floats; }
template <typename Half>
inline Floats rounded(Half, Floats floats) {
  return to_floats(Half{}, to_halves(Half{}, floats));
}

// Calls body(place, whether the vector is partial, its numbers) for each vector of a row.
template <typename Body>
inline void for_vectors(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, std::false_type(), kLanes);
  if (i < size) body(i, std::true_type(), static_cast<int>(size - i));
}

template <typename T, typename Partial>
inline Floats load_vector(const T* from, Partial, int count) {
  if constexpr (Partial::value) return load(from, count);
  return load(from);
}
template <typename T, typename Partial>
inline void store_vector(T* to, Floats floats, Partial, int count) {
  if constexpr (Partial::value) {
    store(to, floats, count);
  } else {
    store(to, floats);
  }
}

inline float inverse_root(Floats squares, int64_t size, float eps) {
  return 1.0f / __builtin_sqrtf(sum_of_lanes(squares) / static_cast<float>(size) + eps);
}

template <typename T>
void norm_row(const T* row, const T* residual, const T* weight, T* residual_out, T* out,
              int64_t size, float eps) {
  Floats squares = {};
  for_vectors(size, [&](int64_t i, auto partial, int count) {
    Floats x = load_vector(row + i, partial, count);
    if (residual != nullptr) {
      x = rounded(T{}, x + load_vector(residual + i, partial, count));
      store_vector(residual_out + i, x, partial, count);
    }
    squares += x * x;
  });
  const float scale = inverse_root(squares, size, eps);
  const T* const from = residual != nullptr ? residual_out : row;
  for_vectors(size, [&](int64_t i, auto partial, int count) {
    const Floats normed = rounded(T{}, load_vector(from + i, partial, count) * scale);
    store_vector(out + i, load_vector(weight + i, partial, count) * normed, partial, count);
  });
}

template <typename T>
void norm_rows(const NormCall& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t place = row * call.size;
    const T* residual = nullptr;
    T* residual_out = nullptr;
    if (call.residual != nullptr) {
      residual = static_cast<const T*>(call.residual) + place;
      residual_out = static_cast<T*>(call.residual_out) + place;
    }
    norm_row<T>(static_cast<const T*>(call.rows) + place, residual,
                static_cast<const T*>(call.weight), residual_out,
                static_cast<T*>(call.out) + place, call.size, call.eps);
  }
}

}  // namespace
}  // namespace windlass
