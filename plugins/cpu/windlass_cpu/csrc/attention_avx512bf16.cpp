// Attention over bfloat16 for AVX-512 with bfloat16 dot products.
#include "attention_decode.h"
#include "attention_prefill.h"

namespace windlass {

const AttentionFunctions kAttentionAvx512Bf16 = {
    decode_task<PairProduct>, prefill_task<PairProduct>, merge_splits<BFloat16>};

}  // namespace windlass
