#include "linear_quantize.h"

#include "isa.h"
#include "linear_quantizer.h"

namespace windlass {

const Quantizer& quantizer_scalar() { return kQuantizer; }

const Quantizer& quantizer() {
#ifndef WINDLASS_SCALAR_ONLY
  if (current_isa() >= Isa::kAvx2) return quantizer_avx2();
#endif
  return quantizer_scalar();
}

}  // namespace windlass
