// Work shared among the threads of torch's own OpenMP pool.
//
// The library is loaded after torch, so that the OpenMP runtime torch brought serves both: one
// pool, whose threads never spin against each other.
#pragma once

#include <omp.h>

#include <cstdint>

namespace windlass {

// Calls body(begin, end, thread) on contiguous parts of [0, count), one per thread, each at least
// `grain` long.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  const int64_t most = grain > 0 ? (count + grain - 1) / grain : count;
  const int64_t threads = most < omp_get_max_threads() ? most : omp_get_max_threads();
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    const int64_t n = omp_get_num_threads(), i = omp_get_thread_num();
    const int64_t begin = count * i / n, end = count * (i + 1) / n;
    if (begin < end) body(begin, end, static_cast<int>(i));
  }
}

}  // namespace windlass
