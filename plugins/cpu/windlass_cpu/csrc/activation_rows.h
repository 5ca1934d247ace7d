// SwiGLU's activation (Shazeer, 2020).
#pragma once

#include "norm_rows.h"

namespace windlass {
namespace {

template <typename T>
void silu_mul_rows(const SiluMulCall& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* const gate = static_cast<const T*>(call.rows) + row * 2 * call.size;
    const T* const factor = gate + call.size;
    T* const out = static_cast<T*>(call.out) + row * call.out_stride;
    for_vectors(call.size, [&](int64_t i, auto partial, int count) {
      const Floats x = load_vector(gate + i, partial, count);
      const Floats silu = rounded(T{}, x / (1.0f + exponential(-x)));
      store_vector(out + i, silu * load_vector(factor + i, partial, count), partial, count);
    });
  }
}

}  // namespace
}  // namespace windlass
