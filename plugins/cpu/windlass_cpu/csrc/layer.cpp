#include "layer.h"

#include <cstring>

#include "linear.h"
#include "scratch.h"

namespace windlass {
namespace {

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
  LayerRun(const DecoderLayer& layer, const LayerStep& step)
      : layer_(layer), step_(step), data_(layer, step.tokens) {}

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
    windlass_rms_norm(&call, step_.tokens, kType);
  }

  void attend(AttentionPlan* plan) {
    multiply(layer_.qkv, data_.normed, data_.qkv);
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
    windlass_rope(&rope, step_.tokens, kType);
    AttentionCall call = layer_.attention;
    call.query = data_.qkv;
    call.query_token_stride = token_stride;
    call.out = data_.attended;
    windlass_attention_run(plan, &call);
    multiply(layer_.o, data_.attended, step_.hidden);
  }

  void feed_forward() {
    multiply(layer_.gate_up, data_.normed, data_.gate_up);
    const SiluMulCall call{data_.gate_up, data_.product, layer_.down.inputs};
    windlass_silu_mul(&call, step_.tokens, kType);
    multiply(layer_.down, data_.product, step_.hidden);
  }

  void multiply(const LayerLinear& linear, const uint16_t* x, void* output) {
    linear.multiply(linear.packed, linear.outputs, linear.inputs, x, linear.inputs, step_.tokens,
                    linear.bias, output, linear.outputs, 0);
  }

  const DecoderLayer& layer_;
  const LayerStep& step_;
  const Activations data_;
};

}  // namespace
}  // namespace windlass

extern "C" {

void windlass_decoder_layers(const windlass::DecoderLayer* layers, int64_t count,
                             const windlass::LayerStep* step) {
  for (int64_t i = 0; i < count; ++i)
    windlass::LayerRun(layers[i], *step).run(i == 0, step->plans[i]);
}
}
