// Reading as the products read, and nothing else.
#include <atomic>
#include <cstdint>

#include "entry.h"
#include "isa.h"
#include "parallel.h"

namespace {

typedef uint64_t Words __attribute__((vector_size(64)));

// Fetching ahead by hand crosses page borders, where the hardware's own prefetching stops.
uint64_t sum_of(const Words* words, int64_t count) {
  constexpr int64_t kAhead = 64;
  Words even{}, odd{};
  for (int64_t i = 0; i + 1 < count; i += 2) {
    __builtin_prefetch(words + i + kAhead, 0, 2);
    __builtin_prefetch(words + i + kAhead + 1, 0, 2);
    even ^= words[i];
    odd ^= words[i + 1];
  }
  even ^= odd;
  uint64_t sum = 0;
  for (int i = 0; i < 8; ++i) sum ^= even[i];
  return sum;
}

}  // namespace

extern "C" {

// Reads `bytes` (a multiple of 128, at a multiple of 64) once, on all threads, doing nothing else:
// what a product of one row takes at best. Returns a `Status`.
WINDLASS_EXPORT int windlass_linear_read(const void* memory, int64_t bytes, uint64_t* checksum) {
  std::atomic<uint64_t> total{0};
  const int64_t count = bytes / static_cast<int64_t>(sizeof(Words)) / 2;
  const int status = windlass::run_entry([&] {
    windlass::parallel_for(count, 1024, [&](int64_t begin, int64_t end, int) {
      total ^= sum_of(static_cast<const Words*>(memory) + 2 * begin, 2 * (end - begin));
    });
  });
  *checksum = total;
  return status;
}
}
