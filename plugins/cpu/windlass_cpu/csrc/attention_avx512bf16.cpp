// Attention over bfloat16 for AVX-512 with bfloat16 dot products.
#include "attention_table.h"

namespace windlass {
namespace {

// A decode multiplies each stored number with few queries: making pairs of bytes does not pay.
template <typename Stored>
constexpr AttentionFunctions byte_functions() {
  return {decode_task<FloatProduct<BFloat16, Stored>>, prefill_task<PairProduct<Stored>>,
          merge_splits<BFloat16>};
}

}  // namespace

const AttentionFormats kAttentionAvx512Bf16 = {
    {{decode_task<PairProduct<BFloat16>>, prefill_task<PairProduct<BFloat16>>,
      merge_splits<BFloat16>},
     byte_functions<Int8>(),
     byte_functions<Float8>()}};

}  // namespace windlass
