#include "linear_bf16.h"

#include <atomic>
#include <cstring>

#include "linear_schedule.h"

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

const Bf16Kernel& current_kernel() {
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
void pack_panel(const uint16_t* weight, int64_t row_stride, int64_t columns, const Bf16Shape& shape,
                uint32_t* packed) {
  constexpr int64_t kLinePairs = 16;
  const int64_t pairs = shape.pairs();
  for (int64_t begin = 0; begin < pairs; begin += kLinePairs) {
    const int64_t end = begin + kLinePairs < pairs ? begin + kLinePairs : pairs;
    const bool whole = 2 * end <= shape.inputs;
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      const uint16_t* row = weight + c * row_stride;
      for (int64_t i = begin; i < end; ++i) {
        uint32_t value = 0;
        if (c < columns) {
          if (whole) std::memcpy(&value, row + 2 * i, sizeof value);
          else value = pair_at(row, i, shape.inputs);
        }
        packed[i * kPanelColumns + c] = value;
      }
    }
  }
}

}  // namespace
}  // namespace windlass

using namespace windlass;

extern "C" {

int64_t windlass_linear_bf16_packed_bytes(int64_t outputs, int64_t inputs) {
  const Bf16Shape shape{inputs, outputs};
  return shape.panels() * shape.panel_elements() * static_cast<int64_t>(sizeof(uint16_t));
}

void windlass_linear_bf16_pack(const uint16_t* weight, int64_t row_stride, int64_t outputs,
                               int64_t inputs, void* packed) {
  const Bf16Shape shape{inputs, outputs};
  parallel_for(shape.panels(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kPanelColumns;
      const int64_t columns = outputs - first < kPanelColumns ? outputs - first : kPanelColumns;
      pack_panel(weight + first * row_stride, row_stride, columns, shape,
                 static_cast<uint32_t*>(packed) + panel * shape.panel_elements() / 2);
    }
  });
}

void windlass_linear_bf16(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                          int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                          int64_t output_stride, int float_output) {
  if (rows == 0) return;
  const Bf16Kernel& kernel = current_kernel();
  const Bf16Shape shape{inputs, outputs};
  const int64_t pairs = shape.pairs();
  const int64_t element = float_output ? sizeof(float) : sizeof(uint16_t);
  const Schedule schedule{rows, pairs * kernel.pair_bytes, kernel.max_rows, shape.panels(),
                          shape.panel_elements() * static_cast<int64_t>(sizeof(uint16_t))};
  const auto pack = [&](int64_t row, int count, int64_t begin, int64_t end, char* to) {
    kernel.pack(x + row * x_stride, x_stride, inputs, count, begin * kPairsPerStep,
                end * kPairsPerStep, to);
  };
  const auto tile = [&](int64_t panel, const char* weights, int64_t row, int count,
                        const char* activations, Prefetch prefetch) {
    const int64_t column = panel * kPanelColumns, left = outputs - column;
    kernel.tile[count](Bf16Tile{
        activations, reinterpret_cast<const uint16_t*>(weights), pairs,
        bias ? bias + column : nullptr,
        static_cast<char*>(output) + (row * output_stride + column) * element, output_stride,
        static_cast<int>(left < kPanelColumns ? left : kPanelColumns), float_output != 0,
        prefetch.start, prefetch.lines});
  };
  run_schedule(schedule, static_cast<const char*>(packed), shape.steps(), pack, tile,
               kPairsPerStep * kPanelColumns * 4);
}

int windlass_linear_bf16_use_dot(int choice) { return dot_choice().exchange(choice); }
}
