// Passes over logits for AVX-512.
#include "sampling_rows.h"

namespace windlass {

const LogitFunctions kLogitsAvx512 = kFunctions;

}  // namespace windlass
