// Threads that share a kernel's work with the thread that calls it.
//
// A step calls some nine kernels a layer, microseconds apart, so a thread that has finished waits
// awake for the next one, and sleeps when none came for a while. A thread that has not begun when
// the work is done is not waited for: on a machine that is busy with something else the others do
// its share. So a kernel never takes longer than the caller alone would need.
#pragma once

#include <cstdint>

#include "entry.h"
#include "isa.h"

namespace windlass {

// Threads that a kernel may use, the calling one included.
int num_threads();

// Memory that the next job will stream, in equal parts shared among the threads in order.
struct Upcoming {
  const char* memory = nullptr;
  int64_t parts = 0, part_bytes = 0;
};

// From now on threads that wait for work fetch what they will read first of `upcoming`.
void expect(const Upcoming& upcoming);

// Calls work(context, i) for 0, on the calling thread, and for each 0 < i < threads at most once,
// and returns when no call runs any more. Only the call for 0 is certain to be made. Throws
// std::bad_alloc when a call did.
void run_on_threads(int threads, void (*work)(const void* context, int thread),
                    const void* context);

}  // namespace windlass

extern "C" {
// Sets the number of threads (at least 1) for all kernel calls that begin afterwards; `cpus`, if
// not null, names for each but the first the processor that it is bound to.
WINDLASS_EXPORT int windlass_set_threads(int count, const int* cpus);
// The number, or a `Status` below 0.
WINDLASS_EXPORT int windlass_num_threads();
}
