// Rows of a packed bf16 weight, as they were before packing: the lookup in a tied embedding.
#include <atomic>
#include <cstring>

#include "entry.h"
#include "linear_bf16.h"
#include "parallel.h"

namespace {

// Copying less than this is done before a second thread has started.
constexpr int64_t kGrainInputs = 1 << 15;

void copy_row(const uint32_t* pairs, int64_t inputs, uint16_t* out) {
  using windlass::kPanelColumns;
  for (int64_t i = 0; i < inputs / 2; ++i)
    std::memcpy(out + 2 * i, pairs + i * kPanelColumns, sizeof(uint32_t));
  if (inputs % 2) std::memcpy(out + inputs - 1, pairs + inputs / 2 * kPanelColumns, 2);
}

}  // namespace

extern "C" int windlass_linear_bf16_rows(const void* packed, int64_t outputs, int64_t inputs,
                                         const int64_t* ids, int64_t count, uint16_t* rows) {
  using namespace windlass;
  const int64_t panel_bytes = bf16_panel_shape(inputs).bytes;
  std::atomic<bool> all_known{true};
  const int status = run_entry([&] {
    parallel_for(count, 1 + kGrainInputs / (inputs + 1), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t id = ids[i];
        if (id < 0 || id >= outputs) {
          all_known = false;
          continue;
        }
        const char* panel = static_cast<const char*>(packed) + id / kPanelColumns * panel_bytes;
        copy_row(reinterpret_cast<const uint32_t*>(panel) + id % kPanelColumns, inputs,
                 rows + i * inputs);
      }
    });
  });
  return status != kDone || all_known ? status : kBadIndex;
}
