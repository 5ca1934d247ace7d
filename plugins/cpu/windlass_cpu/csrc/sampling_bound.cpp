// Which weights top-k and top-p keep, by selection in place of a sort.
#include <algorithm>
#include <functional>

#include "sampling.h"

namespace windlass {
namespace {

// Weights below the first of these that is low enough cannot matter, and are not looked at again.
constexpr float kCutoffs[] = {0x1p-1f, 0x1p-2f, 0x1p-3f,  0x1p-4f, 0x1p-6f,
                              0x1p-9f, 0x1p-14f, 0x1p-24f, 0x1p-60f};

float median_of_three(const float* numbers, int64_t n) {
  const float a = numbers[0], b = numbers[n / 2], c = numbers[n - 1];
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

// The smallest number such that all larger ones together stay below `target`. Numbers are moved.
// Like quickselect (Hoare, 1961), with sums in place of counts.
float bound_by_mass(float* numbers, int64_t n, double target) {
  double above = 0;  // sum of the numbers that are larger than all that are left
  float bound = *std::max_element(numbers, numbers + n);
  while (n > 0) {
    const float pivot = median_of_three(numbers, n);
    float* const end = numbers + n;
    float* const equal = std::partition(numbers, end, [=](float x) { return x > pivot; });
    float* const below = std::partition(equal, end, [=](float x) { return x == pivot; });
    double larger = above;
    for (const float* x = numbers; x < equal; ++x) larger += *x;
    if (larger < target) {
      bound = std::min(bound, pivot);
      above = larger + static_cast<double>(pivot) * static_cast<double>(below - equal);
      n = end - below;
      numbers = below;
    } else {
      n = equal - numbers;
    }
  }
  return bound;
}

// A bound that leaves at least `count` weights, or, where that is 0, at least `mass` of their sum.
float find_cutoff(const LogitFunctions& functions, const float* weights, int64_t n, int64_t count,
                  double mass, float floor) {
  for (const float bound : kCutoffs) {
    if (bound <= floor) break;
    double sum = 0;
    const int64_t found = functions.count(weights, n, bound, &sum);
    if (count > 0 ? found >= count : sum >= mass) return bound;
  }
  return floor;
}

}  // namespace

float kept_bound(const LogitFunctions& functions, const float* weights, int64_t n, int64_t count,
                 float mass, float floor, float* scratch) {
  double total = 0;
  const int64_t candidates = functions.count(weights, n, floor, &total);
  const bool by_count = count > 0 && count < candidates;
  if (!by_count && mass >= 1) return floor;
  const float cutoff = find_cutoff(functions, weights, n, by_count ? count : 0, mass * total, floor);
  int64_t left = 0;
  for (int64_t i = 0; i < n; ++i) {
    scratch[left] = weights[i];
    left += weights[i] >= cutoff;
  }
  float smallest = cutoff;
  if (by_count) {
    std::nth_element(scratch, scratch + count - 1, scratch + left, std::greater<float>());
    smallest = scratch[count - 1];
    const auto kept = [=](float x) { return x >= smallest; };
    left = std::partition(scratch, scratch + left, kept) - scratch;
    total = 0;
    for (int64_t i = 0; i < left; ++i) total += scratch[i];
  }
  if (mass < 1) smallest = std::max(smallest, bound_by_mass(scratch, left, mass * total));
  return std::max(smallest, floor);
}

}  // namespace windlass
