// Choosing tokens from logits: what crosses the C boundary, and the passes over a row of logits of
// one instruction set.
#pragma once

#include <cstdint>

#include "isa.h"

namespace windlass {

struct Largest {
  float value;  // not a number when one of the logits is none
  int64_t index;
};

// Passes over rows of n float32 numbers.
struct LogitFunctions {
  // The largest logit and its first place.
  Largest (*largest)(const float* logits, int64_t n);
  // weights = e^((logits - maximum) / temperature); returns their sum.
  double (*weigh)(const float* logits, int64_t n, float maximum, float temperature, float* weights);
  // Of the weights that are at least `bound`: how many, and their sum.
  int64_t (*count)(const float* weights, int64_t n, float bound, double* sum);
  // Sum of e^(logits - maximum).
  double (*sum_exponentials)(const float* logits, int64_t n, float maximum);
  // How many logits have a larger log-probability, logit - maximum - log_sum, than `logprob`.
  int64_t (*rank)(const float* logits, int64_t n, float maximum, float log_sum, float logprob);
};

extern const LogitFunctions kLogitsScalar, kLogitsAvx2, kLogitsAvx512;

// The parameters of `windlass.kernels.sampling.sample`; null where no row uses one.
struct SampleCall {
  const float* logits;  // [R, V], rows at `stride`
  int64_t stride, num_rows, vocab_size;
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const int64_t* seed;
  const int64_t* position;
  int64_t* tokens;  // [R]
};

struct LogprobCall {
  const float* logits;  // [R, V], rows at `stride`
  int64_t stride, num_rows, vocab_size;
  const int64_t* tokens;  // [R]
  int64_t num_top;
  float* chosen;  // [R]
  int64_t* rank;  // [R]
  int64_t* top_ids;  // [R, num_top]
  float* top;        // [R, num_top]
};

const LogitFunctions& logit_functions();

// The smallest weight that is kept when the `count` largest (0: all) and of these the smallest set
// of largest ones whose sum reaches `mass` of theirs are kept; at least `floor`, which is positive.
// `scratch` has room for n numbers.
float kept_bound(const LogitFunctions& functions, const float* weights, int64_t n, int64_t count,
                 float mass, float floor, float* scratch);

}  // namespace windlass

extern "C" {
// All return a `Status`. Largest logit and its place for each row:
WINDLASS_EXPORT int windlass_greedy(const float* logits, int64_t stride, int64_t num_rows,
                                    int64_t vocab_size, int64_t* tokens, float* largest);
WINDLASS_EXPORT int windlass_sample(const windlass::SampleCall*);
WINDLASS_EXPORT int windlass_token_logprobs(const windlass::LogprobCall*);
}
