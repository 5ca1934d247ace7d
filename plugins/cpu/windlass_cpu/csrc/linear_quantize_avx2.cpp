// The quantising loops as the compiler vectorises them for AVX2.
#include "linear_quantizer.h"

const windlass::Quantizer& windlass::quantizer_avx2() { return kQuantizer; }
