#include "linear_bf16.h"

#include <atomic>
#include <cstring>

#include "entry.h"
#include "linear_dispatch.h"
#include "parallel.h"

namespace windlass {
namespace {

#if defined(__x86_64__)
// Intel's cores run a bf16 dot product at half the rate of two fp32 multiply-adds, which do the
// same work; AMD's run both at one rate.
bool dot_is_fast() { return __builtin_cpu_is("amd"); }
#else
bool dot_is_fast() { return false; }
#endif

std::atomic<int>& dot_choice() {
  static std::atomic<int> choice{-1};
  return choice;
}

bool use_dot() {
  static const bool fast = dot_is_fast();
  const int choice = dot_choice().load(std::memory_order_relaxed);
  return choice < 0 ? fast : choice != 0;
}

// On an Emerald Rapids core tiles are ahead of vectors even at one row.
constexpr int64_t kLeastTileRows = 1;

const LinearKernel& tile_kernel() {
#ifdef WINDLASS_AMX
  if (current_isa() >= Isa::kAmx) return bf16_kernel_amx();
#endif
  return bf16_kernel_emulated();
}

const LinearKernel& current_kernel(int64_t rows) {
  if (use_tiles(rows, kLeastTileRows)) return tile_kernel();
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512Bf16 && use_dot()) return bf16_kernel_avx512bf16();
  if (isa >= Isa::kAvx512) return bf16_kernel_avx512();
  if (isa >= Isa::kAvx2) return bf16_kernel_avx2();
#endif
  return bf16_kernel_scalar();
}

uint32_t pair_at(const uint16_t* row, int64_t pair, int64_t inputs) {
  uint32_t value = 0;
  if (2 * pair + 1 < inputs) {
    std::memcpy(&value, row + 2 * pair, sizeof value);
  } else if (2 * pair < inputs) {
    std::memcpy(&value, row + 2 * pair, sizeof(uint16_t));
  }
  return value;
}

// Goes a cache line of every row at a time, so that what it writes stays in L1.
void pack_panel(const uint16_t* weight, int64_t row_stride, int64_t columns, int64_t inputs,
                int64_t pairs, uint32_t* packed) {
  constexpr int64_t kLinePairs = 16;
  for (int64_t begin = 0; begin < pairs; begin += kLinePairs) {
    const int64_t end = begin + kLinePairs < pairs ? begin + kLinePairs : pairs;
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      const uint16_t* row = weight + c * row_stride;
      for (int64_t i = begin; i < end; ++i)
        packed[i * kPanelColumns + c] = c < columns ? pair_at(row, i, inputs) : 0;
    }
  }
}

}  // namespace

PanelShape bf16_panel_shape(int64_t inputs) {
  const int64_t steps = divide_up(inputs, 2 * kSlicesPerStep);
  return {steps, kSlicesPerStep * kSliceBytes, steps * kSlicesPerStep * kSliceBytes};
}

}  // namespace windlass

using namespace windlass;

extern "C" {

int64_t windlass_linear_bf16_packed_bytes(int64_t outputs, int64_t inputs) {
  return divide_up(outputs, kPanelColumns) * bf16_panel_shape(inputs).bytes;
}

int windlass_linear_bf16_pack(const void* weight, int, int64_t row_stride, int64_t outputs,
                              int64_t inputs, void* packed) {
  const PanelShape shape = bf16_panel_shape(inputs);
  return run_entry([&] {
    parallel_for(divide_up(outputs, kPanelColumns), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t first = panel * kPanelColumns, left = outputs - first;
        char* to = static_cast<char*>(packed) + panel * shape.bytes;
        pack_panel(static_cast<const uint16_t*>(weight) + first * row_stride, row_stride,
                   left < kPanelColumns ? left : kPanelColumns, inputs,
                   shape.steps * kSlicesPerStep, reinterpret_cast<uint32_t*>(to));
      }
    });
  });
}

int windlass_linear_bf16(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                         int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                         int64_t output_stride, int form) {
  return run_entry([&] {
    run_linear(current_kernel(rows), bf16_panel_shape(inputs),
               {packed, outputs, inputs, x, x_stride, rows, bias, output, output_stride,
                Output{form}, nullptr});
  });
}

int windlass_linear_bf16_use_dot(int choice) { return dot_choice().exchange(choice); }
}
