// Runs row kernels with the current instruction set, rows shared among threads.
#include "rows.h"

#include "parallel.h"

namespace windlass {
namespace {

// Numbers that a thread should have before a second one is woken.
constexpr int64_t kGrainNumbers = 32 << 10;

template <typename Call>
void share_rows(RowFunction<Call> function, const Call& call, int64_t rows, int64_t numbers) {
  parallel_for(rows, kGrainNumbers / (numbers + 1) + 1,
               [&](int64_t begin, int64_t end, int) { function(call, begin, end); });
}

}  // namespace

const RowFunctions& row_functions(Dtype dtype) {
  const auto i = static_cast<int32_t>(dtype);
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512) return kRowsAvx512[i];
  if (isa >= Isa::kAvx2) return kRowsAvx2[i];
#endif
  return kRowsScalar[i];
}

}  // namespace windlass

extern "C" {

WINDLASS_EXPORT void windlass_rms_norm(const windlass::NormCall* call, int64_t rows,
                                       int32_t dtype) {
  windlass::share_rows(windlass::row_functions(windlass::Dtype{dtype}).norm, *call, rows, call->size);
}

WINDLASS_EXPORT void windlass_silu_mul(const windlass::SiluMulCall* call, int64_t rows,
                                       int32_t dtype) {
  windlass::share_rows(windlass::row_functions(windlass::Dtype{dtype}).silu_mul, *call, rows, call->size);
}

WINDLASS_EXPORT void windlass_rope(const windlass::RopeCall* call, int64_t tokens, int32_t dtype) {
  const int64_t numbers = (call->query.num_heads + 2 * call->key.num_heads) * call->head_dim;
  windlass::share_rows(windlass::row_functions(windlass::Dtype{dtype}).rope, *call, tokens, numbers);
}

WINDLASS_EXPORT void windlass_write_slots(const windlass::WriteCall* call, int64_t tokens,
                                          int32_t dtype) {
  const int64_t numbers = call->num_heads * call->head_dim;
  windlass::share_rows(windlass::row_functions(windlass::Dtype{dtype}).write, *call, tokens, numbers);
}
}
