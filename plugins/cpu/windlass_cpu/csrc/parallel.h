// Loops whose parts are shared among the pool's threads.
//
// Every thread starts on a range of its own, so that it streams through memory, takes a chunk of
// it at a time, and then takes chunks of the others' ranges: a thread that was held up costs at
// most a chunk.
#pragma once

#include <atomic>
#include <cstdint>

#include "pool.h"

namespace windlass {

constexpr int kMostThreads = 256;
constexpr int64_t kChunksPerThread = 8;

template <typename Body>
class Loop {
 public:
  // [0, count) in `ranges` ranges.
  Loop(int64_t count, int64_t chunk, int ranges, const Body& body)
      : count_(count), chunk_(chunk), ranges_(ranges), body_(body) {
    for (int i = 0; i < ranges; ++i) next_[i].value.store(begin(i), std::memory_order_relaxed);
  }

  void run(int threads) {
    run_on_threads(
        threads,
        [](const void* loop, int thread) {
          auto* self = static_cast<Loop*>(const_cast<void*>(loop));
          for (int i = 0; i < self->ranges_; ++i) self->empty(thread + i, thread);
        },
        this);
  }

 private:
  struct alignas(64) Next {
    std::atomic<int64_t> value;
  };

  int64_t begin(int range) const { return count_ * range / ranges_; }

  void empty(int range, int thread) {
    range %= ranges_;
    const int64_t end = begin(range + 1);
    for (;;) {
      const int64_t from = next_[range].value.fetch_add(chunk_, std::memory_order_relaxed);
      if (from >= end) return;
      body_(from, from + chunk_ < end ? from + chunk_ : end, thread);
    }
  }

  const int64_t count_, chunk_;
  const int ranges_;
  const Body& body_;
  Next next_[kMostThreads];
};

inline int64_t at_least_one(int64_t value) { return value > 1 ? value : 1; }

// Calls body(begin, end, thread) for parts of [0, count), none but the last of a range shorter than
// `grain`, on as many threads as have so much to do. A thread's number is below num_threads().
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  const int64_t least = at_least_one(grain);
  const int64_t most = (count + least - 1) / least;
  int threads = num_threads() < kMostThreads ? num_threads() : kMostThreads;
  if (most < threads) threads = static_cast<int>(most);
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
  const int64_t chunk = count / (threads * kChunksPerThread);
  Loop<Body>(count, chunk > least ? chunk : least, threads, body).run(threads);
}

// Calls body(begin, end, thread) for chunks of [0, count) in order: for parts of unequal cost,
// the costliest first.
template <typename Body>
void parallel_in_order(int64_t count, int64_t chunk, const Body& body) {
  const int threads = num_threads();
  if (threads <= 1 || count <= chunk) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
  Loop<Body>(count, at_least_one(chunk), 1, body).run(threads);
}

}  // namespace windlass
