#include "linear_int8.h"

#include <cstring>
#include <vector>

#include "entry.h"
#include "linear_dispatch.h"
#include "linear_quantize.h"
#include "linear_rounding.h"
#include "parallel.h"

namespace windlass {
namespace {

// On an Emerald Rapids core tiles are ahead of vectors even at one row.
constexpr int64_t kLeastTileRows = 1;

const LinearKernel& tile_kernel() {
#ifdef WINDLASS_AMX
  if (current_isa() >= Isa::kAmx) return int8_kernel_amx();
#endif
  return int8_kernel_emulated();
}

const LinearKernel& current_kernel(int64_t rows) {
  if (use_tiles(rows, kLeastTileRows)) return tile_kernel();
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512Vnni) return int8_kernel_avx512vnni();
  if (isa >= Isa::kAvx512) return int8_kernel_avx512();
  if (isa >= Isa::kAvx2) return int8_kernel_avx2();
#endif
  return int8_kernel_scalar();
}

PanelShape panel_shape(int64_t inputs) {
  constexpr int64_t kStepBytes = kSlicesPerStep * kSliceBytes;
  const int64_t steps = divide_up(inputs, 4 * kSlicesPerStep);
  return {steps, kStepBytes, steps * kStepBytes + static_cast<int64_t>(sizeof(Int8Trailer))};
}

// Quantises the channels of one panel, each into its four bytes of every slice.
class PanelPacker {
 public:
  PanelPacker(int64_t inputs, const PanelShape& shape)
      : inputs_(inputs),
        shape_(shape),
        values_(inputs),
        rounded_(4 * kSlicesPerStep * shape.steps) {}

  void pack(const char* weight, bool is_float, int64_t row_bytes, int64_t columns, char* panel) {
    std::memset(panel, 0, shape_.bytes);
    auto& trailer = *reinterpret_cast<Int8Trailer*>(panel + shape_.steps * shape_.step_bytes);
    for (int64_t c = 0; c < columns; ++c) {
      quantizer_.widen(weight + c * row_bytes, is_float, inputs_, values_.data());
      const float scale = quantizer_.magnitude(values_.data(), inputs_) / kInt8Largest;
      trailer.scales[c] = scale;
      trailer.weight_sums[c] = quantizer_.round(values_.data(), inputs_, inverse_of(scale),
                                                -kInt8Largest, kInt8Largest, rounded_.data());
      for (int64_t slice = 0; slice < shape_.steps * kSlicesPerStep; ++slice)
        std::memcpy(panel + slice * kSliceBytes + c * 4, rounded_.data() + 4 * slice, 4);
    }
  }

 private:
  const int64_t inputs_;
  const PanelShape& shape_;
  const Quantizer& quantizer_ = quantizer();
  std::vector<float> values_;
  std::vector<int8_t> rounded_;
};

// The scale of every row: its largest magnitude becomes 127, and NaN if it is not finite.
const float* row_scales(const uint16_t* x, int64_t stride, int64_t rows, int64_t inputs) {
  thread_local std::vector<float> memory;
  memory.resize(rows);
  float* scales = memory.data();
  const int64_t grain = 1 + (int64_t{1} << 17) / inputs;
  parallel_for(rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const float largest = quantizer().bf16_magnitude(x + r * stride, inputs);
      scales[r] = (largest - largest == 0 ? largest : largest - largest) / kInt8Largest;
    }
  });
  return scales;
}

}  // namespace
}  // namespace windlass

using namespace windlass;

extern "C" {

int64_t windlass_linear_int8_packed_bytes(int64_t outputs, int64_t inputs) {
  return divide_up(outputs, kPanelColumns) * panel_shape(inputs).bytes;
}

int windlass_linear_int8_pack(const void* weight, int is_float, int64_t row_stride,
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

int windlass_linear_int8(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                         int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                         int64_t output_stride, int form) {
  if (rows == 0) return kDone;
  return run_entry([&] {
    run_linear(current_kernel(rows), panel_shape(inputs),
               {packed, outputs, inputs, x, x_stride, rows, bias, output, output_stride,
                Output{form}, row_scales(x, x_stride, rows, inputs)});
  });
}
}
