// The passes over a row of logits. Sums are kept in double precision.
#pragma once

#include <type_traits>

#include "norm_rows.h"
#include "sampling.h"

namespace windlass {
namespace {

typedef double Doubles __attribute__((vector_size(kLanes * 8)));

// A sum in double precision, lane by lane.
class LaneSum {
 public:
  void add(Floats floats) { lanes_ += __builtin_convertvector(floats, Doubles); }
  double total() const {
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += lanes_[i];
    return sum;
  }

 private:
  Doubles lanes_{};
};

inline Floats only_first(Floats floats, int count, float instead) {
  return lane_numbers() < broadcast(static_cast<int32_t>(count)) ? floats : broadcast(instead);
}

inline int64_t lanes_set(Ints mask) {
  int64_t count = 0;
  for (int i = 0; i < kLanes; ++i) count -= mask[i];
  return count;
}

Largest largest_logit(const float* logits, int64_t n) {
  Floats largest = broadcast(-__builtin_inff());
  Ints odd{};
  for_vectors(n, [&](int64_t i, auto partial, int count) {
    Floats x = load_vector(logits + i, partial, count);
    if constexpr (decltype(partial)::value) x = only_first(x, count, -__builtin_inff());
    odd |= x != x;
    largest = maximum(x, largest);
  });
  const bool has_nan = lanes_set(odd) != 0;
  const float value = largest_lane(largest);
  for (int64_t i = 0; i < n; ++i) {
    if (has_nan ? logits[i] != logits[i] : logits[i] == value) return {logits[i], i};
  }
  return {value, 0};
}

double weigh_logits(const float* logits, int64_t n, float maximum, float temperature,
                    float* weights) {
  LaneSum sum;
  const float top = maximum / temperature;
  for_vectors(n, [&](int64_t i, auto partial, int count) {
    const Floats scaled = load_vector(logits + i, partial, count) / temperature;
    Floats weight = exponential(scaled - top);
    if constexpr (decltype(partial)::value) weight = only_first(weight, count, 0);
    store_vector(weights + i, weight, partial, count);
    sum.add(weight);
  });
  return sum.total();
}

int64_t count_weights(const float* weights, int64_t n, float bound, double* sum) {
  LaneSum kept;
  Ints count{};
  for_vectors(n, [&](int64_t i, auto partial, int lanes) {
    const Floats weight = load_vector(weights + i, partial, lanes);
    Ints above = weight >= bound;
    if constexpr (decltype(partial)::value) {
      above &= lane_numbers() < broadcast(static_cast<int32_t>(lanes));
    }
    count += above;
    kept.add(above ? weight : Floats{});
  });
  *sum = kept.total();
  return lanes_set(count);
}

double sum_exponentials(const float* logits, int64_t n, float maximum) {
  LaneSum sum;
  for_vectors(n, [&](int64_t i, auto partial, int count) {
    Floats weight = exponential(load_vector(logits + i, partial, count) - maximum);
    if constexpr (decltype(partial)::value) weight = only_first(weight, count, 0);
    sum.add(weight);
  });
  return sum.total();
}

int64_t rank_of(const float* logits, int64_t n, float maximum, float log_sum, float logprob) {
  Ints above{};
  for_vectors(n, [&](int64_t i, auto partial, int count) {
    Floats x = load_vector(logits + i, partial, count);
    if constexpr (decltype(partial)::value) x = only_first(x, count, -__builtin_inff());
    above += x - maximum - log_sum > logprob;
  });
  return lanes_set(above) + 1;
}

constexpr LogitFunctions kFunctions = {largest_logit, weigh_logits, count_weights,
                                       sum_exponentials, rank_of};

}  // namespace
}  // namespace windlass
