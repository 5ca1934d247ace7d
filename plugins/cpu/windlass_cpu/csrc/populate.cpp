// Real pages behind mapped memory, ahead of its use.
#include <cerrno>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "isa.h"

namespace {

constexpr uintptr_t kPage = 4096;

#ifdef __linux__
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#endif

// Others may be writing: a page is touched by an addition of nothing.
void touch(uintptr_t begin, uintptr_t end) {
  for (uintptr_t page = begin; page < end; page += kPage)
    __atomic_fetch_or(reinterpret_cast<char*>(page), 0, __ATOMIC_RELAXED);
}

}  // namespace

extern "C" {

// Gives every whole page of [memory, memory + bytes) real memory and keeps its contents. Returns
// 0, or -1 when the system has none left.
WINDLASS_EXPORT int windlass_populate(void* memory, int64_t bytes) {
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) & -kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & -kPage;
  if (begin >= end) return 0;
#ifdef __linux__
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return -1;  // EINVAL: a kernel before 5.14
#endif
  touch(begin, end);
  return 0;
}
}
