// Passes over logits for any processor.
#include "sampling_rows.h"

namespace windlass {

const LogitFunctions kLogitsScalar = kFunctions;

}  // namespace windlass
