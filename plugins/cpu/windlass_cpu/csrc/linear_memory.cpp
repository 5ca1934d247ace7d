// The memory that packed weights stream from.
#include <atomic>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

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
// what a product of one row takes at best. Returns a checksum.
WINDLASS_EXPORT uint64_t windlass_linear_read(const void* memory, int64_t bytes) {
  std::atomic<uint64_t> total{0};
  const int64_t count = bytes / static_cast<int64_t>(sizeof(Words)) / 2;
  windlass::parallel_for(count, 1024, [&](int64_t begin, int64_t end, int) {
    total ^= sum_of(static_cast<const Words*>(memory) + 2 * begin, 2 * (end - begin));
  });
  return total;
}

// Asks for huge pages: streaming through them walks fewer page tables. They are wanted
// where whole ones fit in [memory, memory + bytes). Only a wish: nothing fails.
WINDLASS_EXPORT void windlass_linear_advise_huge_pages(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & -kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & -kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}
}
