// Attention in float32 for every number format: the including file names its instruction set.
#pragma once

#include "attention_decode.h"
#include "attention_prefill.h"

namespace windlass {
namespace {

template <typename T, typename Stored = T>
constexpr AttentionFunctions float_functions() {
  using Product = FloatProduct<T, Stored>;
  return {decode_task<Product>, prefill_task<Product>, merge_splits<T>};
}

template <typename T>
constexpr AttentionFormats float_formats() {
  return {{float_functions<T>(), float_functions<T, Int8>(), float_functions<T, Float8>()}};
}

constexpr AttentionTable float_table() {
  return {{float_formats<float>(), float_formats<BFloat16>(), float_formats<Float16>()}};
}

}  // namespace
}  // namespace windlass
