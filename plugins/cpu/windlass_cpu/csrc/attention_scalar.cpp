// Attention for any processor.
#include "attention_table.h"

namespace windlass {

const AttentionTable kAttentionScalar = float_table();

}  // namespace windlass
