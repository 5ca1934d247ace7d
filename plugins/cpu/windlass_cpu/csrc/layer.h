// A whole decoder layer as one call: what Python would do between its nine kernels takes longer
// than some of them when there is one token.
#pragma once

#include "rows.h"

namespace windlass {

// windlass_linear_<format>, and the weight it is called with.
struct LayerLinear {
  void (*multiply)(const void* packed, int64_t outputs, int64_t inputs, const uint16_t* x,
                   int64_t x_stride, int64_t rows, const uint16_t* bias, void* output,
                   int64_t output_stride, int is_float);
  const void* packed;
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
  void* hidden;    // [tokens, hidden size], replaced by the layer's output
  void* residual;  // [tokens, hidden size], replaced by the sum so far
  int64_t tokens;
  const int64_t* positions;
  const int64_t* slots;
  AttentionPlan* plan;
  int32_t is_first;  // `residual` holds nothing yet
};

}  // namespace windlass

extern "C" {
// hidden, residual = layer(hidden, residual), as windlass.layers.decoder_layer.
WINDLASS_EXPORT void windlass_decoder_layer(const windlass::DecoderLayer*,
                                            const windlass::LayerStep*);
}
