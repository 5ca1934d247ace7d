// Attention for AVX2.
#include "attention_table.h"

namespace windlass {

const AttentionTable kAttentionAvx2 = float_table();

}  // namespace windlass
