#include "linear_schedule.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <new>

namespace windlass {
namespace {

constexpr int kLine = 64;
constexpr int64_t kPrefetchDistance = 4096;

int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (found > 0) return found;
#endif
  return 1 << 20;
}

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};

}  // namespace

int64_t Schedule::block_rows() const {
  const int64_t fitting = l2_bytes() / 2 / row_bytes / max_rows;
  return (fitting < 3 ? 3 : fitting) * max_rows;
}

int64_t Schedule::blocks_at_once() const {
  const int64_t wanted = 4 * int64_t{omp_get_max_threads()};
  return panels >= wanted ? 1 : (wanted + panels - 1) / panels;
}

Prefetch prefetch_share(const char* panel, int64_t panel_bytes, int64_t group, int64_t groups,
                        int step_bytes) {
  const int lines = step_bytes / kLine;
  if (groups == 1) return {panel + kPrefetchDistance, lines};
  const int share = static_cast<int>((lines + groups - 1) / groups);
  if (group * share >= lines) return {panel, 0};
  return {panel + panel_bytes + group * (panel_bytes * share / lines), share};
}

char* scratch(size_t bytes) {
  thread_local std::unique_ptr<char, Free> memory;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<char*>(std::aligned_alloc(64, rounded)));
    if (!memory) throw std::bad_alloc();
    capacity = rounded;
  }
  return memory.get();
}

}  // namespace windlass
