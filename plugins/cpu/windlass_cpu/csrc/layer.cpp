#include "layer.h"

#include <cstring>

#include "entry.h"
#include "linear.h"
#include "pool.h"
#include "scratch.h"

namespace windlass {
namespace {

// Products of at most so many rows wait for memory.
constexpr int64_t kFewTokens = 8;
constexpr auto kType = static_cast<int32_t>(Dtype::kBFloat16);

// The layer's activations, one after the other in memory that the calling thread keeps.
struct Activations {
  uint16_t* normed;   // [T, H]
  uint16_t* qkv;      // [T, all heads * D]
  uint16_t* attended; // [T, query heads * D]
  uint16_t* gate_up;  // [T, 2 * intermediate size]
  uint16_t* product;  // [T, intermediate size]

  Activations(const DecoderLayer& layer, int64_t tokens) {
    const int64_t widths[] = {layer.qkv.inputs, layer.qkv.outputs, layer.o.inputs,
                              layer.gate_up.outputs, layer.down.inputs};
    uint16_t** const places[] = {&normed, &qkv, &attended, &gate_up, &product};
    int64_t bytes = 0;
    for (const int64_t width : widths) bytes += size_of(width * tokens);
    static thread_local Scratch scratch;
    auto* place = static_cast<char*>(scratch.at_least(bytes));
    for (int i = 0; i < 5; ++i) {
      *places[i] = reinterpret_cast<uint16_t*>(place);
      place += size_of(widths[i] * tokens);
    }
  }

  // Bytes of `count` numbers, whole cache lines.
  static int64_t size_of(int64_t count) {
    return divide_up(count * static_cast<int64_t>(sizeof(uint16_t)), 64) * 64;
  }
};

class LayerRun {
 public:
  LayerRun(const DecoderLayer& layer, const DecoderLayer* next, const LayerStep& step)
      : layer_(layer), next_(next), step_(step), data_(layer, step.tokens) {}

  void run(bool is_first, AttentionPlan* plan) {
    if (is_first) {
      const int64_t numbers = step_.tokens * layer_.qkv.inputs;
      std::memcpy(step_.residual, step_.hidden, numbers * sizeof(uint16_t));
    }
    norm(layer_.input_norm, is_first ? nullptr : step_.residual);
    attend(plan);
    norm(layer_.post_attention_norm, step_.residual);
    feed_forward();
  }

 private:

  // Adds the hidden states to the residual stream, if there is one, and normalises the sum.
  void norm(const void* weight, void* residual) {
    const NormCall call{step_.hidden, residual,          weight,    residual,
                        data_.normed, layer_.qkv.inputs, layer_.eps};
    require(windlass_rms_norm(&call, step_.tokens, kType));
  }

  void attend(AttentionPlan* plan) {
    project(layer_.qkv, data_.normed, data_.qkv, &layer_.o);
    RopeCall rope = layer_.rope;
    const int64_t head_dim = rope.head_dim, token_stride = layer_.qkv.outputs;
    uint16_t* const key = data_.qkv + rope.query.num_heads * head_dim;
    rope.query.heads = rope.query.out = data_.qkv;
    rope.key.heads = key;
    rope.value = key + rope.key.num_heads * head_dim;
    rope.query.token_stride = rope.query.out_token_stride = token_stride;
    rope.key.token_stride = rope.value_token_stride = token_stride;
    rope.positions = step_.positions;
    rope.slots = step_.slots;
    require(windlass_rope(&rope, step_.tokens, kType));
    AttentionCall call = layer_.attention;
    call.query = data_.qkv;
    call.query_token_stride = token_stride;
    call.out = data_.attended;
    require(windlass_attention_run(plan, &call));
    project(layer_.o, data_.attended, step_.hidden, &layer_.gate_up);
  }

  void feed_forward() {
    const int64_t size = layer_.down.inputs;
    if (step_.tokens > kFewTokens && size % kPanelColumns == 0) {
      multiply(layer_.gate_up, data_.normed, data_.product, size, Output::kGated, &layer_.down);
    } else {
      multiply(layer_.gate_up, data_.normed, data_.gate_up, 2 * size, Output::kBf16, &layer_.down);
      const SiluMulCall call{data_.gate_up, data_.product, size, size};
      require(windlass_silu_mul(&call, step_.tokens, kType));
    }
    project(layer_.down, data_.product, step_.hidden, next_ ? &next_->qkv : nullptr);
  }

  void project(const LayerLinear& linear, const uint16_t* x, void* output,
               const LayerLinear* next) {
    multiply(linear, x, output, linear.outputs, Output::kBf16, next);
  }

  // Between two products of few rows memory would idle.
  void multiply(const LayerLinear& linear, const uint16_t* x, void* output, int64_t output_stride,
                Output form, const LayerLinear* next) {
    if (next != nullptr && step_.tokens <= kFewTokens) {
      const int64_t panels = divide_up(next->outputs, kPanelColumns);
      expect({static_cast<const char*>(next->packed), panels, next->bytes / panels});
    } else {
      expect({});
    }
    require(linear.multiply(linear.packed, linear.outputs, linear.inputs, x, linear.inputs,
                            step_.tokens, linear.bias, output, output_stride,
                            static_cast<int>(form)));
  }

  const DecoderLayer& layer_;
  const DecoderLayer* const next_;
  const LayerStep& step_;
  const Activations data_;
};

}  // namespace
}  // namespace windlass

extern "C" {

int windlass_decoder_layers(const windlass::DecoderLayer* layers, int64_t count,
                            const windlass::LayerStep* step) {
  return windlass::run_entry([&] {
    for (int64_t i = 0; i < count; ++i) {
      const windlass::DecoderLayer* const next = i + 1 < count ? layers + i + 1 : nullptr;
      windlass::LayerRun(layers[i], next, *step).run(i == 0, step->plans[i]);
    }
  });
}
}
