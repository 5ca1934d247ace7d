// Attention for AVX-512.
#include "attention_table.h"

namespace windlass {

const AttentionTable kAttentionAvx512 = float_table();

}  // namespace windlass
