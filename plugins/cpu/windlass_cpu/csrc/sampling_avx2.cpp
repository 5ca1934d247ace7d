// Passes over logits for AVX2.
#include "sampling_rows.h"

namespace windlass {

const LogitFunctions kLogitsAvx2 = kFunctions;

}  // namespace windlass
