// Runs row kernels with the current instruction set, rows shared among threads.
#include "rows.h"

#include "entry.h"
#include "parallel.h"

namespace windlass {
namespace {

// Numbers that a thread should have before a second one is woken.
constexpr int64_t kGrainNumbers = 32 << 10;

template <typename Call>
int share_rows(RowFunction<Call> function, const Call& call, int64_t rows, int64_t numbers) {
  return run_entry([&] {
    parallel_for(rows, kGrainNumbers / (numbers + 1) + 1,
                 [&](int64_t begin, int64_t end, int) { function(call, begin, end); });
  });
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

using namespace windlass;

extern "C" {

int windlass_rms_norm(const NormCall* call, int64_t rows, int32_t dtype) {
  return share_rows(row_functions(Dtype{dtype}).norm, *call, rows, call->size);
}

int windlass_silu_mul(const SiluMulCall* call, int64_t rows, int32_t dtype) {
  return share_rows(row_functions(Dtype{dtype}).silu_mul, *call, rows, call->size);
}

int windlass_rope(const RopeCall* call, int64_t tokens, int32_t dtype) {
  const int64_t numbers = (call->query.num_heads + 2 * call->key.num_heads) * call->head_dim;
  return share_rows(row_functions(Dtype{dtype}).rope, *call, tokens, numbers);
}

int windlass_write_slots(const WriteCall* call, int64_t tokens, int32_t dtype) {
  const int64_t numbers = call->num_heads * call->head_dim;
  return share_rows(row_functions(Dtype{dtype}).write, *call, tokens, numbers);
}
}
