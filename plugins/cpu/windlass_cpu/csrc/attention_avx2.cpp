// Attention for AVX2.
#include "attention_decode.h"
#include "attention_prefill.h"

namespace windlass {
namespace {

template <typename T>
constexpr AttentionFunctions functions() {
  return {decode_task<FloatProduct<T>>, prefill_task<FloatProduct<T>>, merge_splits<T>};
}

}  // namespace

const AttentionFunctions kAttentionAvx2[kNumDtypes] = {functions<float>(), functions<BFloat16>(),
                                                      functions<Float16>()};

}  // namespace windlass
