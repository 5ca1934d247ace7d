#include "linear_int4.h"

#include <cstring>
#include <vector>

#include "entry.h"
#include "linear_dispatch.h"
#include "linear_quantize.h"
#include "parallel.h"

namespace windlass {
namespace {

// Fewer rows are not worth unpacking a panel for.
constexpr int64_t kLeastTileRows = 16;

const LinearKernel& tile_kernel() {
#ifdef WINDLASS_AMX
  if (current_isa() >= Isa::kAmx) return int4_kernel_amx();
#endif
  return int4_kernel_emulated();
}

const LinearKernel& current_kernel(int64_t rows) {
  if (use_tiles(rows, kLeastTileRows)) return tile_kernel();
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512Vnni) return int4_kernel_avx512vnni();
  if (isa >= Isa::kAvx512) return int4_kernel_avx512();
  if (isa >= Isa::kAvx2) return int4_kernel_avx2();
#endif
  return int4_kernel_scalar();
}

// Slices of one group.
constexpr int kSlices = kInt4Group / kInt4SliceInputs;

PanelShape panel_shape(int64_t inputs) {
  constexpr int64_t kGroupBytes = kSlices * kSliceBytes + kInt4ScaleBytes;
  const int64_t groups = divide_up(inputs, kInt4Group);
  return {groups, kGroupBytes, groups * kGroupBytes};
}

// Quantises the channels of one panel.
class PanelPacker {
 public:
  PanelPacker(int64_t inputs, const PanelShape& shape)
      : inputs_(inputs), shape_(shape), values_(shape.steps * kInt4Group) {}

  void pack(const char* weight, bool is_float, int64_t row_bytes, int64_t columns, char* panel) {
    // Channels that do not exist hold zeros: eight in each half.
    std::memset(panel, kInt4Offset * 0x11, shape_.bytes);
    for (int64_t step = 0; step < shape_.steps; ++step)
      std::memset(panel + step * shape_.step_bytes + kSlices * kSliceBytes, 0, kInt4ScaleBytes);
    for (int64_t c = 0; c < columns; ++c) {
      quantizer_.widen(weight + c * row_bytes, is_float, inputs_, values_.data());
      for (int64_t step = 0; step < shape_.steps; ++step) {
        int8_t rounded[kInt4Group];
        const uint16_t scale =
            quantizer_.round_int4_group(values_.data() + step * kInt4Group, kInt4Group, rounded);
        char* to = panel + step * shape_.step_bytes;
        for (int s = 0; s < kSlices; ++s)
          pack_slice(rounded + s * kInt4SliceInputs, to + s * kSliceBytes + 4 * c);
        std::memcpy(to + kSlices * kSliceBytes + 2 * c, &scale, sizeof scale);
      }
    }
  }

 private:
  static void pack_slice(const int8_t* values, char* to) {
    for (int i = 0; i < 4; ++i)
      to[i] = static_cast<char>((values[i] + kInt4Offset) | (values[4 + i] + kInt4Offset) << 4);
  }

  const int64_t inputs_;
  const PanelShape& shape_;
  const Quantizer& quantizer_ = quantizer();
  std::vector<float> values_;
};

}  // namespace
}  // namespace windlass

using namespace windlass;

extern "C" {

int64_t windlass_linear_int4_packed_bytes(int64_t outputs, int64_t inputs) {
  return divide_up(outputs, kPanelColumns) * panel_shape(inputs).bytes;
}

int windlass_linear_int4_pack(const void* weight, int is_float, int64_t row_stride,
                              int64_t outputs, int64_t inputs, void* packed) {
  const PanelShape shape = panel_shape(inputs);
  const int64_t row_bytes = row_stride * (is_float ? sizeof(float) : sizeof(uint16_t));
  return run_entry([&] {
    parallel_for(divide_up(outputs, kPanelColumns), 1, [&](int64_t begin, int64_t end, int) {
      PanelPacker packer(inputs, shape);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t first = panel * kPanelColumns, left = outputs - first;
        packer.pack(static_cast<const char*>(weight) + first * row_bytes, is_float != 0, row_bytes,
                    left < kPanelColumns ? left : kPanelColumns,
                    static_cast<char*>(packed) + panel * shape.bytes);
      }
    });
  });
}

int windlass_linear_int4(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                         int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                         int64_t output_stride, int form) {
  return run_entry([&] {
    run_linear(current_kernel(rows), panel_shape(inputs),
               {packed, outputs, inputs, x, x_stride, rows, bias, output, output_stride,
                Output{form}, nullptr});
  });
}
}
