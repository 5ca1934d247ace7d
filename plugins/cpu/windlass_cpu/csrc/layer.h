// All decoder layers as one call: what Python would do between the nine kernels of a layer takes
// longer than some of them when there is one token.
#pragma once

#include "rows.h"

namespace windlass {

// windlass_linear_<format>, and the weight it is called with.
struct LayerLinear {
  int (*multiply)(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                  int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                  int64_t output_stride, int form);
  const void* packed;
  int64_t bytes;  // of `packed`
  int64_t outputs, inputs;
  const uint16_t* bias;  // or null
};

// What stays from step to step. All numbers are bf16.
struct DecoderLayer {
  LayerLinear qkv, o, gate_up, down;
  const void* input_norm;           // [hidden size]
  const void* post_attention_norm;  // [hidden size]
  float eps;
  // Complete but for the addresses of activations, positions and slots.
  RopeCall rope;
  AttentionCall attention;
};

struct LayerStep {
  void* hidden;    // [tokens, hidden size], replaced by the last layer's output
  void* residual;  // [tokens, hidden size], receives the residual stream
  int64_t tokens;
  const int64_t* positions;
  const int64_t* slots;
  AttentionPlan* const* plans;  // of each layer
};

}  // namespace windlass

extern "C" {
// What windlass.layers.decoder_layer computes, layer after layer. Returns a `Status`.
WINDLASS_EXPORT int windlass_decoder_layers(const windlass::DecoderLayer* layers, int64_t count,
                                            const windlass::LayerStep*);
}
