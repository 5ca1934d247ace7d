// Sampling row by row, rows shared among threads.
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "entry.h"
#include "parallel.h"
#include "scratch.h"

namespace windlass {
namespace {

// Rows of a vocabulary are long: each may go to a thread of its own.
constexpr int64_t kGrainRows = 1;

// Uniform in [0, 1): Philox4x32-10 (Salmon et al., SC 2011), the seed as key, the position as
// counter, the upper 24 bits of the first word.
float uniform(int64_t seed, int64_t position) {
  const auto key = static_cast<uint64_t>(seed), counter = static_cast<uint64_t>(position);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{c0} * 0xD2511F53u, b = uint64_t{c2} * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<float>(c0 >> 8) * 0x1p-24f;
}

// The smallest place at which the sum of the kept weights so far exceeds u of their whole sum.
int64_t draw(const LogitFunctions& functions, const float* weights, int64_t n, float bound,
             float u) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  functions.count(weights, n, bound, &total);
  const double target = u * total;
  double before = 0;
  for (int64_t block = 0; block < n; block += kBlock) {
    const int64_t size = std::min(kBlock, n - block);
    double sum = 0;
    if (functions.count(weights + block, size, bound, &sum) == 0) continue;
    if (before + sum <= target) {
      before += sum;
      continue;
    }
    for (int64_t i = block; i < block + size; ++i) {
      if (weights[i] < bound) continue;
      before += weights[i];
      if (before > target) return i;
    }
  }
  // Rounding kept every sum at the target: the last kept token.
  int64_t last = n - 1;
  while (last > 0 && weights[last] < bound) --last;
  return last;
}

int64_t sample_row(const LogitFunctions& functions, const SampleCall& call, int64_t row) {
  const float* const logits = call.logits + row * call.stride;
  const int64_t n = call.vocab_size;
  const Largest largest = functions.largest(logits, n);
  const float temperature = call.temperature[row];
  if (temperature <= 0 || !std::isfinite(largest.value)) return largest.index;
  const int64_t count = call.top_k != nullptr ? std::max(0, call.top_k[row]) : 0;
  const float mass = call.top_p != nullptr ? call.top_p[row] : 1.0f;
  const float share = call.min_p != nullptr ? call.min_p[row] : 0.0f;
  auto* const weights = static_cast<float*>(thread_scratch(2 * n * sizeof(float)));
  functions.weigh(logits, n, largest.value, temperature, weights);
  // The largest weight is 1, so a share of the largest is the share itself.
  float bound = std::max(share, std::numeric_limits<float>::min());
  if (mass < 1 || (count > 0 && count < n)) {
    bound = kept_bound(functions, weights, n, count, mass, bound, weights + n);
  }
  return draw(functions, weights, n, bound, uniform(call.seed[row], call.position[row]));
}

void logprobs_of_row(const LogitFunctions& functions, const LogprobCall& call, int64_t row) {
  const float* const logits = call.logits + row * call.stride;
  const int64_t n = call.vocab_size;
  const float maximum = functions.largest(logits, n).value;
  const auto log_sum = static_cast<float>(std::log(functions.sum_exponentials(logits, n, maximum)));
  const auto logprob = [&](int64_t token) {
    const bool exists = token >= 0 && token < n;
    return exists ? logits[token] - maximum - log_sum : std::nanf("");
  };
  const float chosen = logprob(call.tokens[row]);
  call.chosen[row] = chosen;
  call.rank[row] = functions.rank(logits, n, maximum, log_sum, chosen);
  // A heap of the largest so far, the smallest of them in front; few logits get past it.
  const auto larger = [&](int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  int64_t* const ids = call.top_ids + row * call.num_top;
  int64_t* const end = ids + call.num_top;
  if (call.num_top == 0) return;
  std::iota(ids, end, 0);
  std::make_heap(ids, end, larger);
  float smallest = logits[ids[0]];
  for (int64_t i = call.num_top; i < n; ++i) {
    if (!(logits[i] > smallest)) continue;
    std::pop_heap(ids, end, larger);
    end[-1] = i;
    std::push_heap(ids, end, larger);
    smallest = logits[ids[0]];
  }
  std::sort_heap(ids, end, larger);
  for (int64_t i = 0; i < call.num_top; ++i) call.top[row * call.num_top + i] = logprob(ids[i]);
}

template <typename Body>
int for_rows(int64_t rows, const Body& body) {
  return run_entry([&] {
    parallel_for(rows, kGrainRows, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) body(row);
    });
  });
}

}  // namespace

const LogitFunctions& logit_functions() {
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  if (isa >= Isa::kAvx512) return kLogitsAvx512;
  if (isa >= Isa::kAvx2) return kLogitsAvx2;
#endif
  return kLogitsScalar;
}

}  // namespace windlass

using namespace windlass;

extern "C" {

int windlass_greedy(const float* logits, int64_t stride, int64_t num_rows, int64_t vocab_size,
                    int64_t* tokens, float* largest) {
  const LogitFunctions& functions = logit_functions();
  return for_rows(num_rows, [&](int64_t row) {
    const Largest found = functions.largest(logits + row * stride, vocab_size);
    tokens[row] = found.index;
    largest[row] = found.value;
  });
}

int windlass_sample(const SampleCall* call) {
  const LogitFunctions& functions = logit_functions();
  return for_rows(call->num_rows, [&](int64_t row) {
    call->tokens[row] = sample_row(functions, *call, row);
  });
}

int windlass_token_logprobs(const LogprobCall* call) {
  const LogitFunctions& functions = logit_functions();
  return for_rows(call->num_rows, [&](int64_t row) { logprobs_of_row(functions, *call, row); });
}
}
