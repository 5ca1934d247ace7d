// Row kernels for AVX-512.
#include "activation_rows.h"
#include "norm_rows.h"
#include "rope_rows.h"

namespace windlass {
namespace {

template <typename T>
constexpr RowFunctions functions() {
  return {norm_rows<T>, silu_mul_rows<T>, rope_tokens<T>, write_rows<T>};
}

}  // namespace

const RowFunctions kRowsAvx512[kNumDtypes] = {functions<float>(), functions<BFloat16>(),
                                            functions<Float16>()};

}  // namespace windlass
