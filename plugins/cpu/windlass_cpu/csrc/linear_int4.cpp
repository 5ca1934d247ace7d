#include "linear_int4.h"

#include <cstring>
#include <vector>

#include "linear_dispatch.h"
#include "linear_quantize.h"
#include "parallel.h"

namespace windlass {
namespace {

// Fewer rows are not worth unpacking a panel for.
constexpr int64_t kLeastTileRows = 16;

const LinearKernel& tile_kernel(int group) {
#ifdef WINDLASS_AMX
  if (current_isa() >= Isa::kAmx) return int4_kernel_amx(group);
#endif
  return int4_kernel_emulated(group);
}

const LinearKernel& current_kernel(int group, int64_t rows) {
  if (use_tiles(rows, kLeastTileRows)) return tile_kernel(group);
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512Vnni) return int4_kernel_avx512vnni(group);
  if (isa >= Isa::kAvx512) return int4_kernel_avx512(group);
  if (isa >= Isa::kAvx2) return int4_kernel_avx2(group);
#endif
  return int4_kernel_scalar(group);
}

PanelShape panel_shape(int group, int64_t inputs) {
  const int64_t groups = divide_up(inputs, group);
  const int64_t group_bytes = group / kInt4SliceInputs * kSliceBytes + kInt4ScaleBytes;
  return {groups, group_bytes, groups * group_bytes};
}

// Quantises the channels of one panel.
class PanelPacker {
 public:
  PanelPacker(int group, int64_t inputs, const PanelShape& shape)
      : group_(group), inputs_(inputs), shape_(shape), values_(shape.steps * group) {}

  void pack(const char* weight, bool is_float, int64_t row_bytes, int64_t columns, char* panel) {
    const int slices = group_ / kInt4SliceInputs;
    // Channels that do not exist hold zeros: eight in each half.
    std::memset(panel, kInt4Offset * 0x11, shape_.bytes);
    for (int64_t step = 0; step < shape_.steps; ++step)
      std::memset(panel + step * shape_.step_bytes + slices * kSliceBytes, 0, kInt4ScaleBytes);
    for (int64_t c = 0; c < columns; ++c) {
      quantizer_.widen(weight + c * row_bytes, is_float, inputs_, values_.data());
      for (int64_t step = 0; step < shape_.steps; ++step) {
        int8_t rounded[kInt4LargestGroup];
        const uint16_t scale =
            quantizer_.round_int4_group(values_.data() + step * group_, group_, rounded);
        char* to = panel + step * shape_.step_bytes;
        for (int s = 0; s < slices; ++s)
          pack_slice(rounded + s * kInt4SliceInputs, to + s * kSliceBytes + 4 * c);
        std::memcpy(to + slices * kSliceBytes + 2 * c, &scale, sizeof scale);
      }
    }
  }

 private:
  static void pack_slice(const int8_t* values, char* to) {
    for (int i = 0; i < 4; ++i)
      to[i] = static_cast<char>((values[i] + kInt4Offset) | (values[4 + i] + kInt4Offset) << 4);
  }

  const int group_;
  const int64_t inputs_;
  const PanelShape& shape_;
  const Quantizer& quantizer_ = quantizer();
  std::vector<float> values_;
};

int64_t packed_bytes(int group, int64_t outputs, int64_t inputs) {
  return divide_up(outputs, kPanelColumns) * panel_shape(group, inputs).bytes;
}

void pack(int group, const void* weight, bool is_float, int64_t row_stride, int64_t outputs,
          int64_t inputs, void* packed) {
  const PanelShape shape = panel_shape(group, inputs);
  const int64_t row_bytes = row_stride * (is_float ? sizeof(float) : sizeof(uint16_t));
  parallel_for(divide_up(outputs, kPanelColumns), 1, [&](int64_t begin, int64_t end, int) {
    PanelPacker packer(group, inputs, shape);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kPanelColumns, left = outputs - first;
      packer.pack(static_cast<const char*>(weight) + first * row_bytes, is_float, row_bytes,
                  left < kPanelColumns ? left : kPanelColumns,
                  static_cast<char*>(packed) + panel * shape.bytes);
    }
  });
}

}  // namespace
}  // namespace windlass

using namespace windlass;

extern "C" {

int64_t windlass_linear_int4_group32_packed_bytes(int64_t outputs, int64_t inputs) {
  return packed_bytes(32, outputs, inputs);
}

int64_t windlass_linear_int4_group128_packed_bytes(int64_t outputs, int64_t inputs) {
  return packed_bytes(128, outputs, inputs);
}

void windlass_linear_int4_group32_pack(const void* weight, int is_float, int64_t row_stride,
                                       int64_t outputs, int64_t inputs, void* packed) {
  pack(32, weight, is_float != 0, row_stride, outputs, inputs, packed);
}

void windlass_linear_int4_group128_pack(const void* weight, int is_float, int64_t row_stride,
                                        int64_t outputs, int64_t inputs, void* packed) {
  pack(128, weight, is_float != 0, row_stride, outputs, inputs, packed);
}

void windlass_linear_int4_group32(const void* packed, int64_t outputs, int64_t inputs,
                                  const uint16_t* x, int64_t x_stride, int64_t rows,
                                  const uint16_t* bias, void* output, int64_t output_stride,
                                  int form) {
  run_linear(current_kernel(32, rows), panel_shape(32, inputs),
             {packed, outputs, inputs, x, x_stride, rows, bias, output, output_stride,
              Output{form}, nullptr});
}

void windlass_linear_int4_group128(const void* packed, int64_t outputs, int64_t inputs,
                                   const uint16_t* x, int64_t x_stride, int64_t rows,
                                   const uint16_t* bias, void* output, int64_t output_stride,
                                   int form) {
  run_linear(current_kernel(128, rows), panel_shape(128, inputs),
             {packed, outputs, inputs, x, x_stride, rows, bias, output, output_stride,
              Output{form}, nullptr});
}
}
